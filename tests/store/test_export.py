"""Exports: what pandas and pyarrow read back is what the store holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.core import ClientRecord, RoundRecord
from fedsim.errors import ConfigError, SetupError, UnknownRunError
from fedsim.store import RunStore, export

NewRun = Callable[..., str]
MakeRecord = Callable[..., RoundRecord]
Rows = list[dict[str, Any]]

_TEXT = {"rounds": ["run_id", "model_sha256"], "clients": ["run_id", "phase", "lost"]}
_FIXED_ROUNDS = ["run_id", "round", "cohort", "results", "lost", "real_seconds"]
_FIXED_ROUNDS += ["bytes_down", "bytes_up", "model_sha256"]
_FIXED_CLIENTS = ["run_id", "round", "phase", "client", "weight", "real_seconds"]
_FIXED_CLIENTS += ["bytes_down", "bytes_up", "lost"]


def _read(path: Path) -> Rows:
    """Read a table as other people would, with None for what is missing."""
    if path.suffix == ".parquet":
        rows: Rows = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".json":
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    # As text first: older versions of pandas read some floats a last digit off.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    words = _TEXT[path.stem]
    return [
        {key: value if key in words else _value(key, value) for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _value(column: str, text: str) -> object:
    if column in (*_FIXED_ROUNDS, *_FIXED_CLIENTS) and column not in ("weight", "real_seconds"):
        return int(text)
    return float(text) if text else None


def _expected(run_id: str, rows: Rows, fixed: list[str]) -> Rows:
    flat = []
    for row in rows:
        stages = {f"seconds/{key}": value for key, value in row.get("seconds", {}).items()}
        flat.append({**row, "run_id": run_id, **row["metrics"], **stages})
    extra = {name for row in flat for name in row} - {*fixed, "metrics", "seconds"}
    return [{name: row.get(name) for name in (*fixed, *sorted(extra))} for row in flat]


def _check(store: RunStore, run_id: str, kind: str, folder: Path) -> None:
    paths = export(store, run_id, kind, folder)
    assert [path.name for path in paths] == ["run.json", f"rounds.{kind}", f"clients.{kind}"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(p.name for p in paths)
    rounds = _expected(run_id, store.get(run_id).rounds, _FIXED_ROUNDS)
    clients = _expected(run_id, store.clients(run_id), _FIXED_CLIENTS)
    for path, rows in ((paths[1], rounds), (paths[2], clients)):
        found = _read(path)
        assert found == rows
        assert [list(row) for row in found] == [list(row) for row in rows]  # the order of columns


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_an_export_reads_back_as_the_store(
    store: RunStore, new_run: NewRun, make_record: MakeRecord, tmp_path: Path, kind: str
) -> None:
    run_id = new_run()
    lost = ClientRecord(client=9, lost='ValueError: "a, b"\nline\ttwo é')
    evaluated = ClientRecord(client=1, phase="evaluate", metrics={"accuracy": 0.1 + 0.2})
    first = make_record(1)
    store.append(
        run_id,
        make_record(1, clients=[*first.clients, lost, evaluated], bytes_down=2**40 + 1),
    )
    more = {"test/accuracy": 1 / 3, "federated/loss": 5e-324, "test/nan": float("nan")}
    store.append(run_id, make_record(2, metrics=more, seconds={"checkpoint": 1e22}))
    _check(store, run_id, kind, tmp_path / "new" / "folder")
    again = export(store, run_id, kind, tmp_path / "again")
    for path in again:
        assert path.read_bytes() == (tmp_path / "new" / "folder" / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_run_without_rounds_has_tables_with_columns(
    store: RunStore, new_run: NewRun, tmp_path: Path, kind: str
) -> None:
    run_id = new_run()
    _, rounds, clients = export(store, run_id, kind, tmp_path / "out")
    for path, columns in ((rounds, _FIXED_ROUNDS), (clients, _FIXED_CLIENTS)):
        assert _read(path) == []
        if kind == "csv":
            assert list(pd.read_csv(path).columns) == columns
        if kind == "parquet":
            assert pq.read_schema(path).names == columns


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    kind=st.sampled_from(["csv", "json", "parquet"]),
)
def test_numbers_are_exported_to_the_bit(
    store: RunStore,
    new_run: NewRun,
    make_record: MakeRecord,
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[float],
    kind: str,
) -> None:
    run_id = new_run()
    clients = [ClientRecord(client=i, weight=x, metrics={"loss": x}) for i, x in enumerate(numbers)]
    metrics = {f"test/{i}": x for i, x in enumerate(numbers)}
    store.append(run_id, make_record(1, clients=clients, metrics=metrics))
    folder = tmp_path_factory.mktemp("export")
    _check(store, run_id, kind, folder)
    _, rounds, rows = export(store, run_id, kind, folder)
    assert [row["loss"] for row in _read(rows)] == numbers
    assert [_read(rounds)[0][f"test/{i}"] for i in range(len(numbers))] == numbers


def test_a_metric_named_like_a_column_gets_one_of_its_own(
    store: RunStore, new_run: NewRun, make_record: MakeRecord, tmp_path: Path
) -> None:
    run_id = new_run()
    client = ClientRecord(client=3, weight=1.0, metrics={"weight": 2.0, "client": 5.0})
    store.append(run_id, make_record(1, clients=[client]))
    row = _read(export(store, run_id, "json", tmp_path)[2])[0]
    assert (row["client"], row["weight"]) == (3, 1.0)
    assert (row["metrics/client"], row["metrics/weight"]) == (5.0, 2.0)


def test_columns_have_one_type_each_in_parquet(
    store: RunStore, new_run: NewRun, make_record: MakeRecord, tmp_path: Path
) -> None:
    """Also where a metric was never a number: pandas alone would make that column of nulls."""
    run_id = new_run()
    store.append(run_id, make_record(1, metrics={"test/loss": float("nan")}))
    _, rounds, clients = export(store, run_id, "parquet", tmp_path)
    kinds = {field.name: str(field.type) for field in pq.read_schema(rounds)}
    assert kinds["test/loss"] == kinds["seconds/train"] == kinds["real_seconds"] == "double"
    assert kinds["bytes_down"] == kinds["round"] == "int64"
    assert kinds["model_sha256"] == "string"
    assert str(pq.read_schema(clients).field("loss").type) == "double"


def test_run_json_says_what_the_run_was(store: RunStore, new_run: NewRun, tmp_path: Path) -> None:
    run_id = new_run("digits", config={"seed": 3}, partition={"clients": 2}, facts={"workers": 1})
    store.finish(run_id, "finished", {"metrics": {"test/accuracy": 0.5}})
    about = json.loads(export(store, "last", "csv", tmp_path)[0].read_text())
    stored = store.get(run_id)
    expected = ("id", "name", "status", "created", "finished", "config", "environment")
    assert about == {key: getattr(stored, key) for key in (*expected, "partition", "facts")} | {
        "summary": {"metrics": {"test/accuracy": 0.5}}
    }


def test_many_clients_are_exported_in_parts_and_completely(
    store: RunStore, new_run: NewRun, make_record: MakeRecord, tmp_path: Path
) -> None:
    """More rows than one part; a metric that only the last part has is a column for all."""
    run_id = new_run()
    clients = [ClientRecord(client=i, metrics={"late": 1.0} if i > 11_998 else {}) for i in
               range(12_000)]  # fmt: skip
    store.append(run_id, make_record(1, clients=clients))
    assert [len(batch) for batch in store.client_batches(run_id)] == [5000, 5000, 2000]
    for kind in ("csv", "json", "parquet"):
        rows = _read(export(store, run_id, kind, tmp_path)[2])
        assert [row["client"] for row in rows] == list(range(12_000))
        assert [row["late"] for row in rows] == [None] * 11_999 + [1.0]


def test_a_failed_export_leaves_the_last_one(
    store: RunStore, new_run: NewRun, make_record: MakeRecord, tmp_path: Path
) -> None:
    run_id = new_run()
    paths = export(store, run_id, "csv", tmp_path)
    before = [path.read_bytes() for path in paths]
    store.append(run_id, make_record(1))
    (tmp_path / "rounds.csv.partial").mkdir()
    with pytest.raises(SetupError, match=f"cannot write to {tmp_path}: Is a directory"):
        export(store, run_id, "csv", tmp_path)
    assert [path.read_bytes() for path in paths[1:]] == before[1:]


def test_what_cannot_be_exported_is_refused(
    store: RunStore, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run()
    with pytest.raises(ConfigError, match=r"one of csv, json, parquet.*Did you mean 'parquet'"):
        export(store, run_id, "parqet", tmp_path / "out")
    with pytest.raises(UnknownRunError):
        export(store, "nothing", "csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write to"):
        export(store, run_id, "csv", tmp_path / "file")
