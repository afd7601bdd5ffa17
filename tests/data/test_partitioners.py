"""Every partitioner: each example in exactly one shard, no shard empty, the same for one stream."""

import itertools
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import registry, rng
from fedsim.data import Partition
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.partition.pathological import Pathological
from fedsim.data.partition.quantity import Quantity
from fedsim.data.partition.shards import Shards
from fedsim.errors import ConfigError


def labels_of(classes: int, each: int) -> np.ndarray:
    return np.tile(np.arange(classes), each)


def counts_of(part: Partition, y: np.ndarray) -> np.ndarray:
    classes = int(y.max()) + 1
    shards = [part.shard(i) for i in range(part.clients)]
    return np.array([np.bincount(y[shard], minlength=classes) for shard in shards])


def assert_deals_out_everything(part: Partition, examples: int) -> None:
    assert np.array_equal(np.sort(part.indices), np.arange(examples))
    assert part.offsets[0] == 0
    assert part.offsets[-1] == examples
    assert np.diff(part.offsets).min() >= 1
    assert part.offsets.dtype == np.int64
    assert part.indices.dtype == np.int64


@pytest.mark.parametrize("name", registry.names("partition"))
@given(
    clients=st.integers(5, 30),
    classes=st.integers(2, 10),
    each=st.integers(30, 60),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_every_example_is_in_one_shard(
    name: str, clients: int, classes: int, each: int, seed: int
) -> None:
    cls = registry.load("partition", name)
    sized: dict[str, Any] = {"clients": clients} if "clients" in _fields(cls) else {}
    y = labels_of(classes, each)
    group = np.arange(len(y)) % 7
    part = cls(**sized).assign(y, group, rng.stream(seed, "partition"))
    again = cls(**sized).assign(y, group, rng.stream(seed, "partition"))
    assert_deals_out_everything(part, len(y))
    assert part.clients == (clients if sized else 7)
    assert np.array_equal(part.indices, again.indices)
    assert np.array_equal(part.offsets, again.offsets)


@pytest.mark.parametrize("name", [n for n in registry.names("partition") if n != "natural"])
def test_another_stream_gives_another_partition(name: str) -> None:
    y = labels_of(10, 50)
    part = registry.load("partition", name)()
    first, second = (part.assign(y, None, rng.stream(seed, "partition")) for seed in (0, 1))
    assert not np.array_equal(first.indices, second.indices)


@given(
    alpha=st.floats(0.01, 1000),
    clients=st.integers(1, 40),
    min_size=st.integers(1, 10),
    seed=st.integers(0, 2**32),
    is_balanced=st.booleans(),
)
@settings(deadline=None)
def test_dirichlet_reaches_the_least_size(
    alpha: float, clients: int, min_size: int, seed: int, is_balanced: bool
) -> None:
    y = labels_of(5, 80)
    part = Dirichlet(clients, alpha, min_size, self_balancing=is_balanced)
    dealt = part.assign(y, None, rng.stream(seed, "partition"))
    assert_deals_out_everything(dealt, len(y))
    assert np.diff(dealt.offsets).min() >= min_size


def test_dirichlet_with_large_alpha_is_uniform() -> None:
    y = labels_of(10, 1000)
    counts = counts_of(Dirichlet(10, 1e6).assign(y, None, rng.stream(0, "partition")), y)
    assert np.abs(counts / counts.sum(axis=1, keepdims=True) - 0.1).max() < 0.005


def test_dirichlet_proportions_have_the_moments_of_the_distribution() -> None:
    """Closed form: mean 1/N and variance (N - 1) / (N^2 (N alpha + 1)) of a component."""
    clients, alpha, each = 10, 0.5, 2000
    y = labels_of(10, each)
    shares = []
    for seed in range(30):
        part = Dirichlet(clients, alpha).assign(y, None, rng.stream(seed, "partition"))
        shares.append(counts_of(part, y) / each)
    values = np.stack(shares)
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert values.mean() == pytest.approx(1 / clients, rel=1e-6)
    assert values.var() == pytest.approx(variance, rel=0.1)  # 3,000 draws: sd about 4 %


def test_self_balancing_evens_out_sizes() -> None:
    y = labels_of(10, 500)
    spread = {}
    for is_balanced in (False, True):
        part = Dirichlet(10, 0.3, self_balancing=is_balanced)
        sizes = [
            np.diff(part.assign(y, None, rng.stream(seed, "partition")).offsets)
            for seed in range(20)
        ]
        spread[is_balanced] = np.std(sizes)
    assert spread[True] < 0.8 * spread[False]


@given(
    clients=st.integers(1, 60),
    classes=st.integers(2, 12),
    per_client=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_pathological_gives_every_client_its_number_of_classes(
    clients: int, classes: int, per_client: int, seed: int
) -> None:
    y = labels_of(classes, 60)
    part = Pathological(clients, per_client)
    if per_client > classes or clients * per_client < classes:
        with pytest.raises(ConfigError, match="classes"):
            part.assign(y, None, rng.stream(seed, "partition"))
        return
    dealt = part.assign(y, None, rng.stream(seed, "partition"))
    assert_deals_out_everything(dealt, len(y))
    counts = counts_of(dealt, y)
    assert ((counts > 0).sum(axis=1) == per_client).all()
    for column in counts.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1  # a class is divided evenly


def test_pathological_refuses_a_class_with_too_few_examples() -> None:
    y = np.concatenate([np.zeros(500, dtype=np.int64), np.ones(3, dtype=np.int64)])
    with pytest.raises(ConfigError, match="class 1 has 3 examples for 10 clients"):
        Pathological(20, 1).assign(y, None, rng.stream(0, "partition"))


def test_shards_are_those_of_mcmahan() -> None:
    """AISTATS 2017, section 3: 60,000 examples, 100 clients, 2 blocks of 300: at most 2 classes."""
    y = labels_of(10, 6000)
    counts = counts_of(Shards(100, 2).assign(y, None, rng.stream(0, "partition")), y)
    assert (counts.sum(axis=1) == 600).all()
    assert ((counts > 0).sum(axis=1) <= 2).all()
    assert set(counts[counts > 0].tolist()) == {300, 600}


def test_quantity_differs_in_size_and_not_in_classes() -> None:
    y = labels_of(2, 50_000)
    part = Quantity(10, alpha=0.5, min_size=500).assign(y, None, rng.stream(0, "partition"))
    sizes = np.diff(part.offsets)
    assert sizes.min() >= 500
    assert sizes.max() > 3 * sizes.min()
    shares = counts_of(part, y)[:, 1] / sizes
    assert np.abs(shares - 0.5).max() < 0.1  # sd <= 0.023


def test_iid_shuffles_sorted_data() -> None:
    y = np.sort(labels_of(10, 1000))
    part = Iid(10).assign(y, None, rng.stream(0, "partition"))
    counts = counts_of(part, y)
    assert (np.diff(part.offsets) == 1000).all()
    assert counts.min() > 60
    assert counts.max() < 140


def test_natural_has_one_client_per_id_in_order() -> None:
    group = np.array([7, 3, 7, 9, 3, 7])
    part = Natural().assign(np.zeros(6), group, rng.stream(0, "partition"))
    assert [sorted(part.shard(i).tolist()) for i in range(3)] == [[1, 4], [0, 2, 5], [3]]


def test_natural_refuses_data_without_clients() -> None:
    with pytest.raises(ConfigError, match=r"no natural clients.*partition\.by"):
        Natural().assign(np.zeros(6), None, rng.stream(0, "partition"))


@pytest.mark.parametrize("name", [n for n in registry.names("partition") if n != "natural"])
def test_more_clients_than_examples_are_refused(name: str) -> None:
    part = registry.load("partition", name)(clients=11)
    with pytest.raises(ConfigError, match=r"partition\.clients = 11: at most \d+ clients") as info:
        part.assign(labels_of(5, 2), None, rng.stream(0, "partition"))
    assert info.value.exit_code == 2


def test_a_least_size_nobody_can_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 3 clients can have 30 .*min_size"):
        Dirichlet(10, min_size=30).assign(labels_of(10, 10), None, rng.stream(0, "partition"))


@pytest.mark.parametrize("part", [Dirichlet(4), Shards(4), Pathological(4)])
def test_sequences_have_no_class_to_skew_by(part: Any) -> None:
    with pytest.raises(ConfigError, match=r"iid, quantity, or natural .*sequences"):
        part.assign(np.zeros((50, 8), dtype=np.int64), None, rng.stream(0, "partition"))


def test_real_targets_are_skewed_by_decile() -> None:
    y = np.random.default_rng(0).normal(size=1000)
    part = Shards(10, 1).assign(y, None, rng.stream(0, "partition"))
    spans = sorted((y[part.shard(i)].min(), y[part.shard(i)].max()) for i in range(10))
    # One decile each: the clients' ranges follow each other without overlap.
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def _fields(cls: type) -> set[str]:
    return {field.name for field in fields(cls)}
