"""The numbers of a partition, against small cases worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import Dataset, Examples, Meta, deal, open_clients, summarize
from fedsim.data.diabetes import Diabetes
from fedsim.data.digits import Digits
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.shakespeare import Shakespeare
from fedsim.data.synthetic import Synthetic


def made(y: list[int], group: list[int], outputs: int) -> Dataset:
    x = np.zeros((len(y), 1), np.float32)
    meta = Meta("made", "classification", (1,), outputs, "", group_names=("north", "south"))
    part = Examples(x, np.array(y), np.array(group))
    return Dataset(meta, part, part)


def test_by_hand() -> None:
    """Clients have (3, 1) and (0, 4) of two classes; together (3, 5) of 8: both are 3/8 away."""
    clients = deal(
        made([0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1], 2), Natural(), seed=0, holdout=0
    )
    summary = summarize(clients)
    assert summary["clients"] == 2
    assert summary["examples"] == 8
    assert summary["table"] == [[3, 1], [0, 4]]
    assert summary["heterogeneity"] == pytest.approx(3 / 8)
    assert summary["effective_clients"] == pytest.approx(2)
    assert summary["client_names"] == ["north", "south"]
    assert summary["sizes"]["min"] == summary["sizes"]["max"] == summary["sizes"]["median"] == 4
    assert sum(summary["sizes"]["histogram"]["counts"]) == 2


def test_clients_are_named_only_where_they_are_natural() -> None:
    """Client 0 is group 1 here, as group 0 has no training examples; dealt out IID, nobody is."""
    dataset = made([0, 1] * 6, [1] * 12, 2)
    assert summarize(deal(dataset, Natural(), seed=0, holdout=0.2))["client_names"] == ["south"]
    mixed = made([0, 1] * 6, [0, 1] * 6, 2)
    assert summarize(deal(mixed, Iid(3), seed=0, holdout=0))["client_names"] == []


def test_effective_clients_of_uneven_sizes() -> None:
    """Sizes 6 and 2: 8^2 / (36 + 4)."""
    clients = deal(made([0] * 8, [0] * 6 + [1] * 2, 2), Natural(), seed=0, holdout=0)
    assert summarize(clients)["effective_clients"] == pytest.approx(64 / 40)


def test_sizes_are_summarized_as_numpy_would_one_by_one() -> None:
    clients = open_clients(Synthetic(clients=5000, size_skew=1.0), None, seed=0, holdout=0.1)
    sizes, summary = clients.sizes(), summarize(clients)
    counts, edges = np.histogram(sizes, bins=20)
    assert summary["sizes"]["histogram"] == {"counts": counts.tolist(), "edges": edges.tolist()}
    assert summary["effective_clients"] == float(sizes.sum() ** 2.0 / (sizes * 1.0 @ sizes))
    assert summary["sizes"]["quantiles"][3] == np.median(sizes)


def test_more_skew_is_a_larger_number() -> None:
    numbers = [
        summarize(open_clients(Digits(), part, seed=0, holdout=0.0))["heterogeneity"]
        for part in (Iid(10), Dirichlet(10, 1.0), Dirichlet(10, 0.1))
    ]
    assert numbers == sorted(numbers)
    assert numbers[0] < 0.15 < 0.6 < numbers[2] < 1


def test_every_kind_of_target_is_json(data_dir: Path) -> None:
    regression = summarize(open_clients(Diabetes(), Iid(5), seed=0, holdout=0.1))
    assert regression["classes"][0] == "decile 1"
    assert np.sum(regression["table"]) == regression["examples"]
    text = summarize(open_clients(Shakespeare(), Natural(), seed=0, holdout=0.1, data_dir=data_dir))
    assert text["clients"] == 141
    assert len(text["table"]) == 100
    assert len(text["classes"]) == 65
    assert 0.02 < text["heterogeneity"] < 0.3  # roles use much the same letters
    for summary in (regression, text):
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_hundred_thousand_clients() -> None:
    y = np.arange(400_000) % 10
    meta = Meta("made", "classification", (1,), 10, "")
    part = Examples(np.zeros((len(y), 1), np.float32), y)
    summary = summarize(deal(Dataset(meta, part, part), Iid(100_000), seed=0, holdout=0.0))
    assert summary["sizes"]["max"] == summary["sizes"]["min"] == 4
    assert len(summary["table"]) == 100
    assert summary["measured_clients"] == 100_000
