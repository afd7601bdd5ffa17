"""What a level's sum is of, and what is kept of a finished cut. (By messages: tests/cuts.)"""

import json

import numpy as np
import pytest

from fedsim import agreement
from fedsim.agreement import Agreed
from fedsim.anonymize import shared
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.table import Encoded
from fedsim.config.schema import SecureSum
from fedsim.errors import ConfigError, RunFailedError

AGE = Intervals(min=0, max=39, widths=(5, 10)).build()
TOWN = Categories(values=tuple("abcdefgh")).build()


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 40, 40), rng.integers(0, 8, 40)], axis=1)
    return Encoded(("age", "town"), (AGE, TOWN), codes.astype(np.int32))


def test_vetoes_are_random_numbers_that_say_only_whether(table):
    cut = shared.start(table, "schema", Protection(k=4), k_over="client")
    counted = shared.counts(cut, table)
    one, two = (agreement.vector(cut, table) for _ in range(2))
    assert one.dtype == np.uint32
    first = len(counted) - shared.vetoes(cut)
    assert first == 48
    assert (one[:first] == counted[:first]).all()
    assert counted[first:].sum() > 3
    assert ((one[first:] > 0) == (counted[first:] > 0)).all()
    assert (one[first:] != two[first:])[counted[first:] > 0].all()


def test_counts_over_the_federation_are_sent_as_they_are(table):
    cut = shared.start(table, "schema", Protection(k=4))
    assert shared.vetoes(cut) == 0
    assert (agreement.vector(cut, table) == shared.counts(cut, table)).all()


@pytest.mark.parametrize("name", ["plain", "ckks"])
def test_sums_that_show_single_clients_counts_are_refused(name):
    with pytest.raises(ConfigError, match=r"secure_sum\.name.*secagg"):
        agreement.refuse_open(SecureSum(name=name))


def test_a_kept_cut_is_the_one_agreed_on(table, tmp_path):
    with pytest.raises(RunFailedError, match="restore it"):
        agreement.load(tmp_path)
    agreement.keep({"name": "nodes"}, tmp_path)  # nothing was agreed on
    assert list(tmp_path.iterdir()) == []
    cut = shared.central(shared.start(table, "schema", Protection(k=4)), table)
    found = Agreed(cut, "secagg", cut.sums, 48, late=(3,), early="somebody was gone")
    agreement.keep(found.to_dict(), tmp_path)
    path = tmp_path / agreement.CUT_FILE
    again = agreement.load(tmp_path)
    assert again.facts() == found.facts()
    assert (again.late, again.early) == ((3,), "somebody was gone")
    assert again.cut.encode() == found.cut.encode()
    plain = json.loads(path.read_text())
    plain["tree"]["covers"][0][1][0] += 1
    path.write_text(json.dumps(plain))
    with pytest.raises(RunFailedError, match="changed"):
        agreement.load(tmp_path)
    path.write_text("{")
    with pytest.raises(RunFailedError, match="no agreed cut"):
        agreement.load(tmp_path)
