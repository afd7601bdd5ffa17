"""Public inputs: rows that are taken from the test set, or from another data set."""

import numpy as np
import pytest
import torch

from fedsim.data import open_clients, show
from fedsim.data.digits import Digits
from fedsim.data.partition.iid import Iid
from fedsim.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clients():
    return open_clients(Digits(), Iid(clients=5), seed=1, holdout=0.0)


def shown(clients, name, rows=50, args=None, seed=1):
    return show(name, rows, args or {}, clients, seed=seed, data_dir=None)


def test_rows_held_out_are_in_the_test_set_no_more(clients):
    found = shown(clients, "held-out")
    test = clients.test()
    rest = found.rest(test)
    assert (found.rows, len(rest.y)) == (50, len(test.y) - 50)
    public = found.inputs(CPU).numpy()
    assert public.shape == (50, 1, 8, 8)
    together = np.concatenate([public, rest.x])
    assert sorted(map(bytes, together)) == sorted(map(bytes, test.x))
    assert not found.examples.y.any()  # no labels
    again, other = shown(clients, "held-out"), shown(clients, "held-out", seed=2)
    assert np.array_equal(again.taken, found.taken)
    assert not np.array_equal(other.taken, found.taken)


def test_another_data_set_lends_its_training_inputs_and_the_test_set_is_whole(clients):
    found = shown(clients, "digits", rows=30)
    assert found.rows == 30
    assert found.rest(clients.test()) is clients.test()
    known = {bytes(row) for row in Digits().load(None).train.x}
    assert all(bytes(row) in known for row in found.inputs(CPU).numpy())


@pytest.mark.parametrize(
    ("name", "rows", "args", "wrong"),
    [
        ("held-out", 360, {}, r"public\.rows.*360 rows"),
        ("digit", 50, {}, r"public\.name.*'held-out'.*digits"),
        ("breast-cancer", 50, {}, r"public\.name.*shape \(1, 8, 8\)"),
        ("synthetic", 50, {}, r"public\.name"),
        ("digits", 50, {"rows": 3}, r"public\.args\.rows"),
    ],
)
def test_what_cannot_be_public_is_refused(clients, name, rows, args, wrong):
    with pytest.raises(ConfigError, match=wrong):
        shown(clients, name, rows, args)


def test_no_public_inputs_is_the_usual(clients):
    assert shown(clients, "none") is None
