"""From a data set to clients: what is dealt, what is held out, what is refused, what is cached."""

import mmap
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import Dataset, Examples, Meta, Partition, Together, deal, open_clients, tensors
from fedsim.data.breast_cancer import BreastCancer
from fedsim.data.digits import Digits
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.errors import ConfigError, DataError, MissingDataError, SetupError

META = Meta("made", "classification", (2,), 3, "0" * 64)


def made(count: int = 60, group: Sequence[int] | None = None) -> Dataset:
    x = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    y = np.arange(count, dtype=np.int64) % 3
    groups = None if group is None else np.resize(np.asarray(group, dtype=np.int64), count)
    return Dataset(META, Examples(x, y, groups), Examples(x[:6] + 1000, y[:6]))


@dataclass(frozen=True)
class Given:
    """A partition that says exactly what it is told."""

    shards: tuple[tuple[int, ...], ...]

    def assign(self, y: Any, group: Any, rng: np.random.Generator) -> Partition:
        offsets = np.cumsum([0, *map(len, self.shards)]).astype(np.int64)
        return Partition(offsets, np.array([i for s in self.shards for i in s], dtype=np.int64))


@given(
    clients=st.integers(1, 30),
    holdout=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
    alpha=st.floats(0.05, 10),
)
@settings(max_examples=50, deadline=None)
def test_training_and_held_out_examples_cover_the_set(
    clients: int, holdout: float, seed: int, alpha: float
) -> None:
    opened = deal(made(), Dirichlet(clients, alpha), seed=seed, holdout=holdout)
    seen = []
    for client in range(opened.clients):
        train, held = opened.train(client), opened.held_out(client)
        total = len(train.y) + len(held.y)
        assert len(train.y) == opened.sizes()[client] >= 1
        assert len(held.y) == min(int(total * holdout), total - 1)
        seen += [*train.x[:, 0].tolist(), *held.x[:, 0].tolist()]
    assert sorted(seen) == made().train.x[:, 0].tolist()


def test_what_one_client_holds_out_does_not_depend_on_the_others() -> None:
    few = Given((tuple(range(20)), tuple(range(20, 60))))
    more = Given((tuple(range(20)), tuple(range(20, 30)), tuple(range(30, 60))))
    a, b = (deal(made(), part, seed=3, holdout=0.3) for part in (few, more))
    assert np.array_equal(a.held_out(0).x, b.held_out(0).x)
    assert len(a.held_out(0).y) == 6
    c = deal(made(), few, seed=4, holdout=0.3)
    assert not np.array_equal(a.held_out(0).x, c.held_out(0).x)


def test_a_single_example_is_never_held_out() -> None:
    opened = deal(made(2), Given(((0,), (1,))), seed=0, holdout=0.9)
    assert opened.sizes().tolist() == [1, 1]
    assert len(opened.held_out(0).y) == 0


def test_heart_disease_clients_are_tested_on_their_own_test_part(data_dir: Path) -> None:
    clients = open_clients(HeartDisease(), Natural(), seed=0, holdout=0.5, data_dir=data_dir)
    assert clients.sizes().tolist() == [199, 172, 30, 85]
    assert [len(clients.held_out(i).y) for i in range(4)] == [104, 89, 16, 45]
    for client in range(4):
        assert set(clients.held_out(client).group.tolist()) == {client}  # type: ignore[union-attr]
    assert len(clients.test().y) == 254


def test_natural_clients_missing_from_the_test_part_are_tested_on_nothing() -> None:
    dataset = made(60, group=[0, 2, 5])
    test = replace(dataset.test, group=np.array([5, 5, 7, 0, 0, 0]))
    opened = deal(replace(dataset, test=test), Natural(), seed=0, holdout=0.5)
    assert [len(opened.held_out(i).y) for i in range(3)] == [3, 0, 2]
    assert set(opened.held_out(2).group.tolist()) == {5}  # type: ignore[union-attr]
    assert opened.sizes().tolist() == [20, 20, 20]


def test_pooled_is_one_more_client_with_everything_that_is_not_held_out() -> None:
    clients = open_clients(Digits(), Dirichlet(20), seed=0, holdout=0.1)
    pooled = Together(clients)
    assert pooled.clients == 21
    assert pooled.sizes()[20] == clients.sizes().sum() == len(pooled.train(20).y) < 1437
    assert np.array_equal(pooled.train(3).x, clients.train(3).x)
    assert np.array_equal(pooled.held_out(3).x, clients.held_out(3).x)
    assert len(pooled.held_out(20).y) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((60, 2), np.nan, np.float32)}, r"training part: 60 rows hold NaN.* 0, 1"),
        ({"y": np.full(60, 3)}, "labels run from 3 to 3, accepted are 0 to 2"),
        ({"y": np.full(60, -1)}, "labels run from -1 to -1"),
        ({"y": np.zeros(59, np.int64)}, "60 inputs but 59 targets"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, np.int64)}, "no training examples"),
    ],
)
def test_contents_that_cannot_be_trained_on(change: dict[str, Any], message: str) -> None:
    dataset = made()
    wrong = replace(dataset, train=replace(dataset.train, **change))
    with pytest.raises(DataError, match=message) as info:
        deal(wrong, Iid(3), seed=0, holdout=0.1)
    assert info.value.exit_code == 2


def test_one_infinite_number_is_found_by_column() -> None:
    dataset = made()
    dataset.test.x[4, 1] = np.inf
    with pytest.raises(DataError, match=r"test part: 1 rows hold NaN or infinity in .* 1;"):
        deal(dataset, Iid(3), seed=0, holdout=0.1)


def test_a_token_out_of_range() -> None:
    meta = Meta("text", "classification", (4,), 5, "0" * 64, vocabulary=5)
    part = Examples(np.full((9, 4), 5), np.zeros((9, 4), np.int64))
    with pytest.raises(DataError, match="tokens run from 5 to 5, accepted are 0 to 4"):
        deal(Dataset(meta, part, part), Iid(3), seed=0, holdout=0.1)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (((0, 1), (), (2,)), r"1 of 3 clients have no training examples \(clients 1\)"),
        (((0, 1), (1, 2)), "gives an example to two clients"),
        (((0, 1), (60,)), "examples that do not exist"),
    ],
)
def test_partitions_that_are_none(shards: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        deal(made(), Given(shards), seed=0, holdout=0.1)


def test_missing_and_wrong_files_stop_before_anything(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "heart-disease"
    folder.mkdir()
    for file in HeartDisease.files:
        (tmp_path / file.path).write_bytes((data_dir / file.path).read_bytes())
    (tmp_path / HeartDisease.files[2].path).write_text("something else")
    with pytest.raises(MissingDataError, match=r"processed\.switzerland\.data is not the publish"):
        open_clients(HeartDisease(), Natural(), seed=0, holdout=0.1, data_dir=tmp_path)


def test_a_client_column_is_refused_where_there_are_no_columns() -> None:
    with pytest.raises(ConfigError, match=r"partition\.by = 'ward': unset"):
        open_clients(Digits(), Natural(by="ward"), seed=0, holdout=0.1)


def is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


def test_the_cache_holds_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 5, "holdout": 0.2}
    plain = open_clients(Digits(), Dirichlet(20), **options)
    first = open_clients(Digits(), Dirichlet(20), **options, cache_dir=tmp_path)
    second = open_clients(Digits(), Dirichlet(20), **options, cache_dir=tmp_path)
    for cached in (first, second):
        assert cached.meta == plain.meta
        assert np.array_equal(cached.sizes(), plain.sizes())
        for client in range(20):
            for name in ("train", "held_out"):
                a, b = getattr(cached, name)(client), getattr(plain, name)(client)
                assert np.array_equal(a.x, b.x)
                assert np.array_equal(a.y, b.y)
        assert np.array_equal(cached.test().x, plain.test().x)
        assert is_mapped(cached.test().x)  # pages are shared by all processes
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_keeps_groups_and_own_test_parts(tmp_path: Path, data_dir: Path) -> None:
    for _ in range(2):
        clients = open_clients(
            HeartDisease(), Natural(), seed=0, holdout=0.1, data_dir=data_dir, cache_dir=tmp_path
        )
        assert [len(clients.held_out(i).y) for i in range(4)] == [104, 89, 16, 45]
        assert clients.train(2).group.tolist() == [2] * 30  # type: ignore[union-attr]


def test_what_determines_the_contents_is_in_the_key(tmp_path: Path) -> None:
    def opened(part: Any = Dirichlet(20), seed: int = 0, holdout: float = 0.1, **more: Any) -> None:  # noqa: B008
        open_clients(Digits(), part, seed=seed, holdout=holdout, cache_dir=tmp_path, **more)

    opened()
    opened()
    assert len(list(tmp_path.iterdir())) == 1
    opened(seed=1)
    opened(holdout=0.2)
    opened(Dirichlet(20, alpha=0.6))
    opened(Iid(20))
    open_clients(BreastCancer(), Iid(20), seed=0, holdout=0.1, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def _open_in_a_process(folder: Path, queue: Any) -> None:
    clients = open_clients(Digits(), Dirichlet(20), seed=0, holdout=0.1, cache_dir=folder)
    queue.put(float(clients.train(7).x.sum()))


@pytest.mark.slow
def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_open_in_a_process, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    queue.close()
    queue.join_thread()
    assert len(sums) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(SetupError, match="cannot write to"):
        open_clients(Digits(), Iid(4), seed=0, holdout=0.1, cache_dir=tmp_path / "cache")


def test_tensors_are_ready_for_a_model(tmp_path: Path) -> None:
    images = Examples(np.array([[[0, 255]]], dtype=np.uint8), np.array([1]))
    x, y = tensors(images, replace(META, mean=0.5, std=0.25))
    assert x.tolist() == [[[-2.0, 2.0]]]
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    tokens = Examples(np.array([[1, 2]]), np.array([[2, 3]]))
    assert tensors(tokens, META)[0].dtype == torch.int64
    real = Examples(np.zeros((1, 2), np.float32), np.array([0.5]))
    assert tensors(real, replace(META, kind="regression"))[1].dtype == torch.float32
    clients = open_clients(Digits(), Iid(4), seed=0, holdout=0.1, cache_dir=tmp_path)
    x, _ = tensors(clients.test(), clients.meta)
    x += 1  # a copy: the mapped file is read-only and stays as it is
    assert not np.array_equal(x.numpy(), clients.test().x)
