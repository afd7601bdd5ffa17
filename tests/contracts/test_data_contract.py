"""What every registered data set keeps to; a new file in fedsim/data is picked up by itself."""

import sqlite3
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import registry
from fedsim.data import ClientData, Dataset, Examples, Meta, deal, tensors
from fedsim.data._source import find
from fedsim.data._stored import Stored, open_stored
from fedsim.data._types import BornFederated
from fedsim.data.partition.iid import Iid

NAMES = registry.names("data")


@pytest.fixture(scope="session")
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the user's own, for parts that read one."""
    path = tmp_path_factory.mktemp("own") / "table.csv"
    lines = [f"{i % 7},{i / 3},{'ab'[i % 2]}" for i in range(60)]
    path.write_text("\n".join(["first,second,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="session")
def own_rows(own_table: Path) -> dict[str, dict[str, str]]:
    """The same table where the parts of `Stored` look for one; the client is column `first`."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(own_table)
    frame.to_parquet(own_table.with_suffix(".parquet"), row_group_size=7)
    frame.to_json(own_table.with_suffix(".jsonl"), orient="records", lines=True)
    with closing(sqlite3.connect(own_table.with_suffix(".db"))) as database:
        frame.to_sql("own", database, index=False)
    return {
        "parquet": {"path": str(own_table.with_suffix(".parquet"))},
        "documents": {"path": str(own_table.with_suffix(".jsonl"))},
        "sql": {"url": f"sqlite:///{own_table.with_suffix('.db')}", "query": "SELECT * FROM own"},
    }


@pytest.fixture(scope="session")
def own_folder(own_table: Path) -> Path:
    """A Hugging Face data set on disk."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = own_table.parent / "hub"
    rows = {"x": [[i / 7, 1.0] for i in range(60)], "label": [i % 3 for i in range(60)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    return folder


@pytest.fixture(params=NAMES)
def part(request: pytest.FixtureRequest) -> Any:
    """One data set, given what it needs; those whose files are not here are skipped."""
    cls = registry.load("data", request.param)
    options = {}
    if isinstance(cls(), Stored):
        return cls(**request.getfixturevalue("own_rows")[request.param], target="label")
    if {"path", "target"} <= {field.name for field in fields(cls)}:
        options = {"path": str(request.getfixturevalue("own_table")), "target": "label"}
    if "dataset" in {field.name for field in fields(cls)}:
        options = {"dataset": str(request.getfixturevalue("own_folder"))}
    if cls.files and find(cls.files, request.getfixturevalue("data_dir")) is None:
        pytest.skip(f"the files of {request.param} are not here")
    return cls(**options)


@pytest.fixture
def root(part: Any, request: pytest.FixtureRequest) -> Path | None:
    return request.getfixturevalue("data_dir") if part.files else None


def clients_of(part: Any, root: Path | None) -> ClientData:
    if isinstance(part, BornFederated):
        return part.open(seed=0, holdout=0.1)
    return deal(part.load(root), Iid(5), seed=0, holdout=0.1)


def test_rows_that_stay_where_they_are_have_one_place(part: Any) -> None:
    """Of those parts that can be dealt out by their clients alone."""
    if not isinstance(part, Stored):
        return
    pooled, clients = part.load(None), open_stored(replace(part, client="first"), None)
    assert clients.clients == 7
    assert clients.meta.group_names == tuple("0123456")
    check_examples(clients.test(), clients.meta)
    targets = []
    for client in range(7):
        train, held = clients.train(client), clients.held_out(client)
        check_examples(train, clients.meta)
        assert len(train.y) == clients.sizes()[client]
        targets += [*train.y, *held.y]
    assert sorted(targets) == sorted([*pooled.train.y, *pooled.test.y])


def check_examples(examples: Examples, meta: Meta) -> None:
    assert len(examples.x) == len(examples.y) > 0
    assert examples.x.shape[1:] == meta.input_shape
    assert examples.x.dtype in (np.float32, np.uint8, np.int64)
    assert examples.y.dtype == (np.float32 if meta.kind == "regression" else np.int64)
    if examples.x.dtype == np.int64:
        assert meta.vocabulary > 0
        assert 0 <= examples.x.min() <= examples.x.max() < meta.vocabulary
    if examples.x.dtype == np.float32:
        assert np.isfinite(examples.x).all()
    if meta.kind == "regression":
        assert np.isfinite(examples.y).all()
    else:
        assert examples.y.min() >= 0
        assert examples.y.max() < (2 if meta.kind == "binary" else meta.outputs)
    if examples.group is not None:
        assert examples.group.dtype == np.int64
        assert len(examples.group) == len(examples.y)
        assert examples.group.max() < len(meta.group_names)


def test_examples_are_as_the_meta_says(part: Any, root: Path | None) -> None:
    clients = clients_of(part, root)
    meta = clients.meta
    assert meta.kind in ("classification", "binary", "regression")
    assert meta.outputs == 1 or meta.kind == "classification"
    assert len(meta.sha256) == 64
    assert meta.std > 0
    if meta.class_names:
        assert len(meta.class_names) == max(meta.outputs, 2 if meta.kind == "binary" else 1)
    check_examples(clients.test(), meta)
    for client in range(clients.clients)[:5]:
        check_examples(clients.train(client), meta)
    x, y = tensors(clients.train(0), meta)
    assert len(x) == len(y) == clients.sizes()[0]
    assert x.is_floating_point() or meta.vocabulary


def test_every_example_has_one_place(part: Any, root: Path | None) -> None:
    clients = clients_of(part, root)
    sizes = clients.sizes()
    assert len(sizes) == clients.clients
    assert sizes.min() >= 1
    held = [len(clients.held_out(i).y) for i in range(clients.clients)]
    if not isinstance(part, BornFederated):
        dataset = part.load(root)
        assert isinstance(dataset, Dataset)
        assert sizes.sum() + sum(held) == len(dataset.train.y)
        total = sum(
            float(shard.y.sum(dtype=np.float64))
            for i in range(clients.clients)
            for shard in (clients.train(i), clients.held_out(i))
        )
        assert total == pytest.approx(float(dataset.train.y.sum(dtype=np.float64)), abs=1e-2)


def test_contents_and_their_hash_are_the_same_every_time(part: Any, root: Path | None) -> None:
    first, second = clients_of(part, root), clients_of(part, root)
    assert first.meta == second.meta
    assert np.array_equal(first.train(0).x, second.train(0).x)
    assert np.array_equal(first.test().y, second.test().y)


def test_the_hash_changes_with_the_contents(part: Any, root: Path | None) -> None:
    from fedsim.data._contents import content_sha256

    if isinstance(part, BornFederated):
        assert part.open(0, 0.1).meta.sha256 != part.open(1, 0.1).meta.sha256
        return
    dataset = part.load(root)
    assert content_sha256(dataset.train, dataset.test) == dataset.meta.sha256
    flipped = Examples(dataset.train.x, dataset.train.y[::-1].copy(), dataset.train.group)
    assert content_sha256(flipped, dataset.test) != dataset.meta.sha256
