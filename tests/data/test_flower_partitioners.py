"""Our partitioners against those of flwr-datasets, whose rules they follow."""

import warnings
from typing import Any

import numpy as np
import pytest

from fedsim import rng
from fedsim.data import Partition
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.partition.pathological import Pathological
from fedsim.data.partition.shards import Shards

CLIENTS = 10
Y = np.tile(np.arange(10), 200)


def of_flower(name: str, y: np.ndarray = Y, **options: Any) -> list[np.ndarray]:
    """Return the row numbers of every client, by a partitioner of flwr-datasets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between its own dependencies
        import flwr_datasets.partitioner
        from datasets import Dataset

        partitioner = getattr(flwr_datasets.partitioner, name)(**options)
        partitioner.dataset = Dataset.from_dict({"label": y, "row": np.arange(len(y))})
        parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
        return [np.asarray(part["row"]) for part in parts]


def counts(shards: list[np.ndarray], y: np.ndarray = Y) -> np.ndarray:
    return np.array([np.bincount(y[shard], minlength=10) for shard in shards])


def shards_of(part: Partition) -> list[np.ndarray]:
    return [part.shard(i) for i in range(part.clients)]


@pytest.mark.parametrize("is_balanced", [False, True])
def test_dirichlet_has_the_same_spread_of_classes_and_sizes(is_balanced: bool) -> None:
    theirs, ours = [], []
    for seed in range(25):
        options = {"alpha": 0.5, "min_partition_size": 1, "self_balancing": is_balanced}
        shards = of_flower(
            "DirichletPartitioner",
            num_partitions=CLIENTS,
            partition_by="label",
            seed=seed,
            **options,
        )
        theirs.append(counts(shards))
        part = Dirichlet(CLIENTS, 0.5, self_balancing=is_balanced)
        ours.append(counts(shards_of(part.assign(Y, None, rng.stream(seed, "partition")))))
    a, b = np.stack(theirs), np.stack(ours)
    # 25 draws of 100 proportions each: relative deviations of these estimates are a few percent.
    assert b.std() == pytest.approx(a.std(), rel=0.12)
    assert b.sum(axis=2).std() == pytest.approx(a.sum(axis=2).std(), rel=0.25)
    assert (b == 0).mean() == pytest.approx((a == 0).mean(), abs=0.05)


def test_dirichlet_agrees_on_the_cut() -> None:
    """The same proportions are cut into the same sizes: the running sum, rounded down."""
    from fedsim.data.partition._deal import cut

    stream = np.random.default_rng(3)
    for _ in range(50):
        proportions = stream.dirichlet(np.full(7, 0.3))
        pieces = np.split(np.arange(97), (np.cumsum(proportions) * 97).astype(int)[:-1])
        assert cut(proportions, 97).tolist() == [len(piece) for piece in pieces]


def test_pathological_with_one_class_is_equal() -> None:
    theirs = of_flower(
        "PathologicalPartitioner",
        num_partitions=24,
        partition_by="label",
        num_classes_per_partition=1,
        class_assignment_mode="first-deterministic",
    )
    ours = Pathological(24, 1).assign(Y, None, rng.stream(0, "partition"))
    assert np.array_equal(counts(shards_of(ours)), counts(theirs))


def test_pathological_with_two_classes_has_the_same_form() -> None:
    theirs = counts(
        of_flower(
            "PathologicalPartitioner",
            num_partitions=30,
            partition_by="label",
            num_classes_per_partition=2,
            class_assignment_mode="first-deterministic",
        )
    )
    ours = counts(shards_of(Pathological(30, 2).assign(Y, None, rng.stream(0, "partition"))))
    for table in (theirs, ours):
        assert ((table > 0).sum(axis=1) == 2).all()
        assert (table[np.arange(30), np.arange(30) % 10] > 0).all()
        assert (table.sum(axis=0) == 200).all()


def test_shards_have_the_same_sizes_and_purity() -> None:
    theirs = counts(
        of_flower(
            "ShardPartitioner",
            num_partitions=CLIENTS,
            partition_by="label",
            num_shards_per_partition=2,
        )
    )
    ours = counts(shards_of(Shards(CLIENTS, 2).assign(Y, None, rng.stream(0, "partition"))))
    for table in (theirs, ours):
        assert (table.sum(axis=1) == 200).all()
        assert set(table[table > 0].tolist()) <= {100, 200}


def test_iid_has_the_same_sizes() -> None:
    theirs = of_flower("IidPartitioner", y=Y[:1003], num_partitions=CLIENTS)
    ours = shards_of(Iid(CLIENTS).assign(Y[:1003], None, rng.stream(0, "partition")))
    assert sorted(map(len, ours)) == sorted(map(len, theirs))


def test_natural_is_equal() -> None:
    group = np.random.default_rng(0).integers(0, 40, 500) * 3
    theirs = of_flower("NaturalIdPartitioner", y=group, partition_by="label")
    ours = Natural().assign(np.zeros(500), group, rng.stream(0, "partition"))
    assert [sorted(shard.tolist()) for shard in shards_of(ours)] == [
        sorted(shard.tolist()) for shard in theirs
    ]
