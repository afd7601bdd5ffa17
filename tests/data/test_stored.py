"""Data that stay where they are kept: same clients, same examples, whatever the files."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from fedsim.data import ClientData, open_clients, open_raw, summarize
from fedsim.data._rows import fingerprints
from fedsim.data.parquet import Parquet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.table import Table
from fedsim.errors import ConfigError, DataError, MissingDataError


def patients(count: int = 300) -> pd.DataFrame:
    stream = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": stream.integers(20, 90, count),
            "pressure": stream.normal(120, 15, count),
            "sex": stream.choice(["m", "f"], count),
            "hospital": stream.choice(["north", "south", "west"], count),
            "outcome": stream.choice(["ill", "well"], count),
        }
    )


def natural(path: object, cache: Path | None = None, **more: object) -> ClientData:
    data = Parquet(path=str(path), **{"target": "outcome", **more})
    return open_clients(data, Natural(by="hospital"), seed=0, holdout=0.1, cache_dir=cache)


def contents(clients: ClientData) -> list[np.ndarray]:
    parts = [
        part for i in range(clients.clients) for part in (clients.train(i), clients.held_out(i))
    ]
    return [array for part in [*parts, clients.test()] for array in (part.x, part.y)]


def same(one: ClientData, other: ClientData) -> bool:
    pairs = zip(contents(one), contents(other), strict=True)
    return one.meta.sha256 == other.meta.sha256 and all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "patients.parquet"
    patients().to_parquet(path, row_group_size=50)
    return path


def _shuffled(folder: Path) -> None:
    frame = patients().sample(frac=1, random_state=3)[
        ["sex", "outcome", "hospital", "age", "pressure"]
    ]
    for name, part in (("z", frame[:10]), ("a", frame[10:200]), ("deep/m", frame[200:])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(folder / f"{name}.parquet")


def _hive(folder: Path) -> None:
    pq.write_to_dataset(pa.Table.from_pandas(patients()), folder, partition_cols=["hospital"])


def _feather(folder: Path) -> None:
    folder.mkdir()
    patients().to_feather(folder / "patients.feather")


@pytest.mark.parametrize("write", [_shuffled, _hive, _feather], ids=lambda f: f.__name__[1:])
def test_clients_do_not_depend_on_the_files(write, file: Path, tmp_path: Path) -> None:
    write(tmp_path / "other")
    assert same(natural(file), natural(tmp_path / "other"))


def test_rows_scales_and_classes_are_those_of_the_file(file: Path) -> None:
    clients, frame = natural(file), patients()
    assert clients.meta.group_names == ("north", "south", "west")
    assert clients.meta.class_names == ("ill", "well")
    trained = [clients.train(i) for i in range(3)]
    held = [clients.held_out(i) for i in range(3)]
    counts = frame["hospital"].value_counts().sort_index()
    assert [len(a.y) + len(b.y) for a, b in zip(trained, held, strict=True)] == counts.tolist()
    assert 30 < sum(len(part.y) for part in held) < 90  # about a fifth
    x = np.concatenate([part.x for part in trained])
    # Numbers are standardized by the training part, categories one-hot in the order of names.
    assert np.allclose(x[:, :2].mean(axis=0), 0, atol=1e-6)
    assert np.allclose(x[:, :2].std(axis=0), 1, atol=1e-6)
    whole = np.concatenate([x, *(part.x for part in held)])
    assert whole[:, 2].sum() == (frame["sex"] == "f").sum()
    order = whole[:, 0].argsort()
    ages = np.sort(frame["age"])
    assert np.allclose(np.polyval(np.polyfit(whole[order, 0], ages, 1), whole[order, 0]), ages)


def test_what_is_in_the_cache_is_used(file: Path, tmp_path: Path) -> None:
    first, again = natural(file, tmp_path / "cache"), natural(file, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert again.survey is not first.survey
    assert same(first, again)


def test_a_changed_file_is_looked_through_again(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "patients.parquet"
    shutil.copy(file, copy)
    before = natural(copy, tmp_path / "cache")
    patients(301).to_parquet(copy)
    after = natural(copy, tmp_path / "cache")
    assert sum(map(len, contents(after))) > sum(map(len, contents(natural(file))))
    with pytest.raises(DataError, match=r"the rows of client 'north' have changed since the run"):
        before.train(0)


def test_other_partitions_have_all_rows_in_memory(file: Path) -> None:
    data = Parquet(path=str(file), target="outcome")
    clients = open_clients(data, Iid(7), seed=0, holdout=0.1)
    assert clients.clients == 7
    pooled = data.load(None)
    assert len(pooled.train.y) + len(pooled.test.y) == 300


def test_rows_as_they_were_are_those_of_the_clients(file: Path) -> None:
    data, by = Parquet(path=str(file), target="outcome"), Natural(by="hospital")
    raw = open_raw(data, by, seed=0, holdout=0.1)
    assert list(raw.table.train.columns) == ["age", "pressure", "sex", "outcome"]
    clients = natural(file)
    for client in range(3):
        assert len(raw.train(client)) == len(clients.train(client).y)
        ill = raw.train(client)["outcome"] == "ill"
        assert ill.sum() == (clients.train(client).y == 0).sum()


def test_a_summary_names_the_clients(file: Path) -> None:
    assert summarize(natural(file))["client_names"] == ["north", "south", "west"]


class Counted(MemoryFileSystem):
    """Files in memory that count what is read of them."""

    protocol = "counted"
    store: dict = {}  # noqa: RUF012 - as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    bytes_read = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("counted://"))

    def _open(self, path, mode="rb", **more):
        file = super()._open(path, mode, **more)
        if mode != "rb":
            return file

        def counting(size=-1):  # the file itself is kept and opened again: not to be nested
            content = MemoryFile.read(file, size)
            Counted.bytes_read += len(content)
            return content

        file.read = counting
        return file


@pytest.mark.parametrize("layout", ["sorted", "folders"])
def test_a_client_reads_its_share_of_the_bytes(layout: str, tmp_path: Path) -> None:
    register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    clients, rows = (1000 if layout == "sorted" else 100), 20  # a file takes longer than its rows
    stream = np.random.default_rng(1)
    columns = {f"f{i}": stream.normal(size=clients * rows) for i in range(10)}
    columns["outcome"] = stream.integers(0, 2, clients * rows)
    owner = np.repeat([f"c{i:04}" for i in range(clients)], rows)
    files = Counted()
    table = pa.table({**columns, "hospital": owner})
    if layout == "sorted":
        with files.open("/set/all.parquet", "wb") as out:
            pq.write_table(table, out, row_group_size=rows)
    else:
        for i in range(clients):
            with files.open(f"/set/hospital=c{i:04}/part.parquet", "wb") as out:
                pq.write_table(table.slice(i * rows, rows).drop(["hospital"]), out)
    total = sum(files.size(path) for path in files.find("/set"))
    natural("counted:///set", tmp_path)
    opened = natural("counted:///set", tmp_path)
    Counted.bytes_read = 0
    asked = clients // 2
    assert len(opened.train(asked).y) + len(opened.held_out(asked).y) == rows
    assert 0 < Counted.bytes_read < 1.2 * total / clients


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    frame = patients().assign(note="x" * 10 + patients()["pressure"].astype(str) * 300)
    with Counted().open("/notes.parquet", "wb") as out:
        frame.to_parquet(out, compression=None)
    Counted.bytes_read = 0
    clients = natural("counted:///notes.parquet", features=("age", "pressure"))
    assert clients.meta.input_shape == (2,)
    assert Counted.bytes_read < 0.2 * Counted().size("/notes.parquet")


def test_images_and_lists_keep_their_shape(tmp_path: Path) -> None:
    import io

    from PIL import Image

    stream = np.random.default_rng(2)
    pixels = stream.integers(0, 256, (60, 8, 6, 3), dtype=np.uint8)

    def png(array: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(array).save(out, "PNG")
        return out.getvalue()

    table = pa.table(
        {
            "image": [{"bytes": png(one), "path": None} for one in pixels],
            "flat": pa.array([one.ravel().tolist() for one in pixels], pa.list_(pa.uint8())),
            "vector": [one[0].tolist() for one in pixels / 255],
            "outcome": stream.integers(0, 2, 60),
            "hospital": stream.choice(["a", "b"], 60),
        }
    )
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=7)
    path = tmp_path / "images.parquet"
    images = natural(path, features=("image",))
    assert images.meta.input_shape == (3, 8, 6)
    assert images.train(0).x.dtype == np.uint8
    x = np.concatenate([images.train(i).x for i in range(2)])
    assert images.meta.mean == pytest.approx(x.mean() / 255, rel=1e-12)
    assert images.meta.std == pytest.approx(x.std() / 255, rel=1e-12)
    held = [images.held_out(i).x for i in range(2)]
    found = sorted(one.tobytes() for one in np.concatenate([x, *held]))
    assert found == sorted(one.transpose(2, 0, 1).tobytes() for one in pixels)
    flat = natural(path, features=("flat",), shape=(8, 6, 3))
    assert flat.meta.input_shape == (8, 6, 3)
    assert natural(path, features=("vector",)).meta.input_shape == (6, 3)
    with pytest.raises(ConfigError, match=r"data\.shape = \[5\]: as many numbers"):
        natural(path, features=("flat",), shape=(5,))


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_empty_cells_as_in_a_table(missing: str, tmp_path: Path) -> None:
    frame = patients()
    frame.loc[::7, "age"] = np.nan
    frame.loc[::11, "sex"] = None
    frame.to_parquet(tmp_path / "holes.parquet")
    with pytest.raises(DataError, match=r"empty cells in: age \(43 rows\), sex \(28 rows\)"):
        natural(tmp_path / "holes.parquet")
    clients = natural(tmp_path / "holes.parquet", missing=missing)
    table = Table(path=str(tmp_path / "holes.parquet"), target="outcome", missing=missing)
    pooled = open_clients(table, Natural(by="hospital"), seed=0, holdout=0.1)
    assert clients.meta.input_shape == pooled.meta.input_shape
    count = sum(len(clients.train(i).y) + len(clients.held_out(i).y) for i in range(3))
    assert count == pooled.sizes().sum() + len(pooled.test().y)


def test_a_regression_target_is_standardized(file: Path) -> None:
    clients = natural(file, target="pressure", features=("age",))
    assert clients.meta.kind == "regression"
    y = np.concatenate([clients.train(i).y for i in range(3)])
    assert (y.mean(), y.std()) == pytest.approx((0, 1), abs=1e-6)


def test_clients_of_one_row_train_on_it(tmp_path: Path) -> None:
    patients().assign(hospital=np.arange(300)).to_parquet(tmp_path / "own.parquet")
    with pytest.raises(DataError, match="no client has both training and test rows"):
        natural(tmp_path / "own.parquet")
    patients().assign(hospital=np.arange(300) // 2).to_parquet(tmp_path / "own.parquet")
    clients = natural(tmp_path / "own.parquet")
    assert clients.clients == 150
    assert clients.sizes().min() == 1
    assert len(clients.test().y) == sum(len(clients.held_out(i).y) for i in range(150))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "outcom"}, ConfigError, "data.target = 'outcom'.*Did you mean 'outcome'"),
        ({"features": ("ag",)}, ConfigError, "data.features = 'ag'.*Did you mean 'age'"),
        ({"features": ("outcome",)}, ConfigError, "it is the target"),
        ({"task": "regression"}, ConfigError, "'outcome' does not hold numbers"),
        ({"task": "binary", "target": "hospital"}, ConfigError, "has 3 different values"),
        ({"shape": (2,)}, ConfigError, r"data.shape = \[2\]"),
    ],
    ids=["target", "feature", "same", "task", "binary", "shape"],
)
def test_what_cannot_be_is_said_in_terms_of_fields(
    options: dict, error: type[Exception], message: str, file: Path
) -> None:
    with pytest.raises(error, match=message):
        open_clients(
            Parquet(path=str(file), **{"target": "outcome", **options}),
            Natural(by="sex"),
            seed=0,
            holdout=0.1,
        )


def test_files_that_are_not_there_or_not_what_they_say(file: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="there is no such file or folder"):
        natural(tmp_path / "nowhere")
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=r"files that end in .parquet.*it has rows.csv"):
        natural(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        natural(tmp_path / "broken.parquet")
    patients().assign(age="old").to_parquet(tmp_path / "broken.parquet")
    shutil.copy(file, tmp_path / "fine.parquet")
    with pytest.raises(DataError, match="column 'age' holds both numbers and text"):
        natural(tmp_path)


def test_fingerprints_know_values_and_names_alone() -> None:
    one = {"a": np.array([1.0, 2.0, -0.0]), "b": np.array(["x", None, "1"], dtype=object)}
    turned = {"b": one["b"][::-1], "a": one["a"][::-1]}
    assert np.array_equal(fingerprints(one), fingerprints(turned)[::-1])
    assert not np.isin(fingerprints({"b": one["a"], "a": one["b"]}), fingerprints(one)).any()
    many = fingerprints({"a": np.arange(100_000.0)})
    assert len(np.unique(many)) == 100_000
    # A fifth of the rows is below a fifth of the range, within five standard deviations.
    assert abs((many < 2**64 / 5).mean() - 0.2) < 5 * (0.16 / 1e5) ** 0.5
