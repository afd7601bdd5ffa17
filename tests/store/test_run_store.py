"""The run store: what is written is read again, by the same or by other processes."""

import fcntl
import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.core import ClientRecord, RoundRecord
from fedsim.errors import RunFailedError, UnknownRunError
from fedsim.store import RunStore

NewRun = Callable[..., str]
MakeRecord = Callable[..., RoundRecord]

_SHARED = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_WRITER = """
import sys, time
from pathlib import Path
from fedsim.core import ClientRecord, RoundRecord
from fedsim.store import RunStore

place, name, ready, go, rounds, clients = sys.argv[1:]
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.001)
store = RunStore(place)
run = store.create(name, {"name": name}, {}, {}, {})
for number in range(1, int(rounds) + 1):
    rows = [ClientRecord(client=i, weight=number) for i in range(int(clients))]
    store.append(run, RoundRecord(number, {}, rows, len(rows), 0.0, {}, 0, 0, "x"))
    print(number, flush=True)
store.finish(run, "finished", {"rounds": int(rounds)})
"""


def _stored(record: RoundRecord) -> dict[str, object]:
    """A round as the store should return it: no clients, but how many counted."""
    lost = [client for client in record.clients if client.lost]
    done = [c for c in record.clients if c.phase == "train" and not c.lost]
    fields = {key: value for key, value in asdict(record).items() if key != "clients"}
    return {**fields, "results": len(done), "lost": len(lost)}


def _rows(record: RoundRecord) -> list[dict[str, object]]:
    rows = []
    for client in record.clients:
        row = client._asdict()
        del row["traceback"]
        rows.append({"round": record.round, **row})
    return rows


def _without_run(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != "run_id"}


def test_a_run_is_read_as_it_was_written(store: RunStore, make_record: MakeRecord) -> None:
    parts = {
        "config": {"name": "digits", "optimizer": {"lr": 0.1}, "metrics": ("accuracy",)},
        "environment": {"python": "3.11", "gpus": []},
        "partition": {"clients": 3, "table": [[1, 2], [3, 4]]},
        "facts": {"workers": 2, "data_sha256": "ab", "baseline": None, "is_exact": True},
    }
    run_id = store.create("digits", **parts)
    records = [make_record(number) for number in (1, 2)]
    for record in records:
        store.append(run_id, record)
    store.finish(run_id, "finished", {"metrics": {"test/accuracy": 0.2}})

    run = store.get(run_id)
    assert (run.id, run.name, run.status) == (run_id, "digits", "finished")
    assert run.config == {**parts["config"], "metrics": ["accuracy"]}
    assert (run.environment, run.partition, run.facts) == tuple(
        parts[key] for key in ("environment", "partition", "facts")
    )
    assert run.summary == {"metrics": {"test/accuracy": 0.2}}
    assert run.folder == store.folder(run_id)
    assert run.folder.is_dir()
    assert run.created < run.finished
    assert [_without_run(entry) for entry in run.rounds] == [_stored(r) for r in records]
    assert store.clients(run_id) == [row for record in records for row in _rows(record)]


_number = st.floats(allow_nan=False, allow_infinity=False)
_count = st.integers(0, 2**62)
_words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@st.composite
def _records(draw: st.DrawFn) -> RoundRecord:
    client = st.builds(
        ClientRecord,
        client=_count,
        phase=st.sampled_from(["train", "evaluate"]),
        weight=_number,
        metrics=st.dictionaries(_words, _number, max_size=3),
        real_seconds=_number,
        bytes_down=_count,
        bytes_up=_count,
        lost=_words,
    )
    clients = draw(st.lists(client, max_size=6, unique_by=lambda c: (c.phase, c.client)))
    ordered = sorted(clients, key=lambda c: (c.phase == "evaluate", c.client))
    return RoundRecord(
        round=draw(st.integers(1, 2**31 - 1)),
        metrics=draw(st.dictionaries(_words, _number, max_size=3)),
        clients=ordered,
        cohort=len(ordered),
        real_seconds=draw(_number),
        seconds=draw(st.dictionaries(_words, _number, max_size=3)),
        bytes_down=draw(_count),
        bytes_up=draw(_count),
        model_sha256="ab",
    )


@_SHARED
@given(record=_records())
def test_any_round_comes_back_to_the_bit(
    store: RunStore, new_run: NewRun, record: RoundRecord
) -> None:
    run_id = new_run()
    store.append(run_id, record)
    assert [_without_run(entry) for entry in store.get(run_id).rounds] == [_stored(record)]
    assert store.clients(run_id) == _rows(record)


def test_what_is_no_number_is_stored_as_none(store: RunStore, new_run: NewRun) -> None:
    run_id = new_run()
    client = ClientRecord(
        client=0, weight=math.nan, metrics={"loss": math.inf}, real_seconds=-math.inf, lost="NaN"
    )
    record = RoundRecord(1, {"test/loss": math.nan}, [client], 1, math.nan, {}, 0, 0, "x")
    store.append(run_id, record)
    entry = store.get(run_id).rounds[0]
    assert (entry["metrics"], entry["real_seconds"]) == ({"test/loss": None}, None)
    row = store.clients(run_id)[0]
    assert (row["weight"], row["metrics"], row["real_seconds"]) == (None, {"loss": None}, None)


def test_numpy_numbers_and_hostile_text_are_stored(store: RunStore) -> None:
    name = "a/../\0b\ud800 é"
    run_id = store.create(name, {"path": Path("x"), "lr": np.float32(0.5)}, {}, {}, {})
    client = ClientRecord(
        client=np.int64(7),  # type: ignore[arg-type]
        weight=np.float64(2.5),
        metrics={"loss": np.float32(0.25)},  # type: ignore[dict-item]
        bytes_up=np.int64(9),  # type: ignore[arg-type]
        lost="bad \0 \udcff text",
    )
    store.append(run_id, RoundRecord(1, {}, [client], 1, 0.0, {}, 0, 0, "x"))
    assert store.folder(run_id).parent == store.root
    assert store.get(run_id).config == {"path": "x", "lr": 0.5}
    row = store.clients(run_id)[0]
    assert (row["client"], row["weight"], row["bytes_up"]) == (7, 2.5, 9)
    assert row["metrics"] == {"loss": 0.25}
    assert row["lost"] == "bad \ufffd ? text"


def test_what_is_not_json_is_refused_by_its_type(store: RunStore) -> None:
    with pytest.raises(TypeError, match="of type object"):
        store.create("x", {"part": object()}, {}, {}, {})
    assert store.all() == []


def test_truncate_and_append_make_a_resumed_run_exact(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    resumed, whole, other = new_run("resumed"), new_run("whole"), new_run("other")
    for number in (1, 2, 3):
        store.append(resumed, make_record(number, salt=0.5 * (number > 1)))  # 2, 3: to be dropped
        store.append(other, make_record(number))
    store.truncate(resumed, 1)
    assert [entry["round"] for entry in store.get(resumed).rounds] == [1]
    assert {row["round"] for row in store.clients(resumed)} == {1}
    for number in (1, 2, 3):
        store.append(whole, make_record(number))
        if number > 1:
            store.append(resumed, make_record(number))
    rounds = [[_without_run(e) for e in store.get(run).rounds] for run in (resumed, whole, other)]
    assert rounds[0] == rounds[1] == rounds[2]
    assert store.clients(resumed) == store.clients(whole) == store.clients(other)


def test_a_round_is_stored_once_and_whole_or_not_at_all(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    run_id = new_run()
    store.append(run_id, make_record(1))
    before = (store.get(run_id), store.clients(run_id))
    with pytest.raises(RunFailedError, match=f"round 1 of run {run_id}"):
        store.append(run_id, make_record(1, salt=1.0))
    twice = make_record(2)
    with pytest.raises(RunFailedError, match="round 2"):
        store.append(run_id, replace(twice, clients=[*twice.clients, twice.clients[0]]))
    assert (store.get(run_id), store.clients(run_id)) == before


def test_client_rows_are_found_by_round_phase_and_loss(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    run_id = new_run()
    train = [ClientRecord(client=i, lost="timeout" if i == 1 else "") for i in (2, 0, 1)]
    test = [ClientRecord(client=i, phase="evaluate") for i in (1, 0)]
    store.append(run_id, make_record(2, clients=[*test, *train]))
    store.append(run_id, make_record(10, count=1))
    found = [(row["round"], row["phase"], row["client"]) for row in store.clients(run_id)]
    assert found == [
        (2, "train", 0),
        (2, "train", 1),
        (2, "train", 2),
        (2, "evaluate", 0),
        (2, "evaluate", 1),
        (10, "train", 0),
    ]
    assert [row["client"] for row in store.clients(run_id, round=2, phase="evaluate")] == [0, 1]
    assert [row["round"] for row in store.clients(run_id, round=10)] == [10]
    assert [(row["client"], row["lost"]) for row in store.lost_clients(run_id)] == [(1, "timeout")]
    assert store.clients(run_id, round=3) == []
    entry = store.get(run_id).rounds[0]
    assert (entry["results"], entry["lost"]) == (2, 1)


@pytest.mark.slow
def test_100_000_clients_are_written_and_read_in_seconds(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    run_id = new_run()
    record = make_record(1, count=100_000)
    started = time.perf_counter()
    store.append(run_id, record)
    written = time.perf_counter() - started
    assert written < 20, f"{written:.1f} s"  # about 2 s on one idle core
    started = time.perf_counter()
    rows = store.clients(run_id)
    read = time.perf_counter() - started
    assert read < 20, f"{read:.1f} s"
    assert len(rows) == 100_000
    assert rows[99_999] == _rows(record)[99_999]


def test_ids_say_when_and_what_and_sort_by_time(store: RunStore, new_run: NewRun) -> None:
    first = new_run("my run!")
    assert re.fullmatch(r"\d{8}-\d{6}-my-run--[0-9a-f]{4}", first)
    assert len({first, *(new_run("my run!") for _ in range(5))}) == 6
    assert next(run.id for run in store.all()) == first
    assert len(new_run("x" * 300)) < 70
    assert new_run("").split("-")[2] == "run"


def test_a_run_is_found_by_id_prefix_name_and_last(store: RunStore, new_run: NewRun) -> None:
    runs = [new_run(name) for name in ("digits", "hearts", "digits", "2026")]
    for run_id in runs:
        assert store.get(run_id).id == run_id
        assert store.get(run_id[:-1]).id == run_id
    assert store.get("digits").id == runs[2]  # the latest of that name
    assert store.get("hearts").id == runs[1]
    assert store.get("2026").id == runs[3]  # a name counts more than the beginning of an id
    assert store.get("last").id == runs[3]
    assert [run.id for run in store.all()] == runs


def test_an_unknown_run_is_refused_with_a_hint(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    with pytest.raises(UnknownRunError, match="no run 'last'"):
        store.get("last")
    ids = [new_run("digits"), new_run("digits")]
    with pytest.raises(UnknownRunError, match=r"Did you mean 'digits'\?"):
        store.get("digist")
    with pytest.raises(UnknownRunError, match="fedsim runs list"):
        store.get("zzzzzz")
    with pytest.raises(UnknownRunError, match="no run ''"):
        store.get("")
    for wild in ("%", "_" * len(ids[0]), "*", ids[0].upper()):
        with pytest.raises(UnknownRunError):
            store.get(wild)
    common = ids[0][:9]
    with pytest.raises(UnknownRunError, match="begins 2 runs"):
        store.get(common)
    actions: list[Callable[[str], object]] = [
        lambda run: store.append(run, make_record(1)),
        lambda run: store.truncate(run, 0),
        lambda run: store.set_status(run, "failed"),
        lambda run: store.finish(run, "failed", {}),
        store.delete,
    ]
    for action in actions:
        with pytest.raises(UnknownRunError):
            action("20200101-000000-none-0000")


def test_a_deleted_run_is_gone_and_others_are_not(
    store: RunStore, new_run: NewRun, make_record: MakeRecord
) -> None:
    gone, kept = new_run("gone"), new_run("kept")
    for run_id in (gone, kept):
        store.append(run_id, make_record(1))
        (store.folder(run_id) / "run.log").write_text("x")
    store.delete(gone)
    assert not store.folder(gone).exists()
    assert store.clients(gone) == []
    assert [run.id for run in store.all()] == [kept]
    assert len(store.get(kept).rounds) == 1
    assert (store.folder(kept) / "run.log").read_text() == "x"
    for hostile in ("", ".", "..", str(store.folder(kept)), "last"):
        with pytest.raises(UnknownRunError):
            store.delete(hostile)
    assert (store.folder(kept) / "run.log").exists()
    (store.folder(kept) / "run.log").unlink()
    store.folder(kept).rmdir()
    store.delete(kept)  # somebody has deleted the folder by hand
    assert store.all() == []


def test_a_run_that_is_going_on_is_not_deleted(store: RunStore, new_run: NewRun) -> None:
    run_id = new_run()
    with (store.folder(run_id) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunFailedError, match="going on in another process"):
            store.delete(run_id)
    assert store.get(run_id).status == "running"
    store.delete(run_id)
    assert store.all() == []


def _start(place: str, name: str, folder: Path, rounds: int, clients: int) -> subprocess.Popen[str]:
    marks = (folder / f"ready-{name}", folder / "go")
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, place, name, *marks, str(rounds), str(clients)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _let_go(names: list[str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not all((folder / f"ready-{name}").exists() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder / "go").touch()


@pytest.mark.slow
def test_processes_make_one_store_and_write_their_runs_at_once(place: str, tmp_path: Path) -> None:
    """None of them has seen the database before: they race for its tables too."""
    names = [f"run{i}" for i in range(4)]
    processes = [_start(place, name, tmp_path, rounds=20, clients=200) for name in names]
    _let_go(names, tmp_path)
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    store = RunStore(place)
    assert sorted(run.name for run in store.all()) == names
    for name in names:
        run = store.get(name)
        assert run.status == "finished"
        assert [entry["round"] for entry in run.rounds] == list(range(1, 21))
        assert len(store.clients(run.id)) == 20 * 200


@pytest.mark.slow
def test_a_killed_process_leaves_whole_rounds(place: str, tmp_path: Path) -> None:
    """Every round it said was stored is there with all clients; the next may be, as a whole."""
    chance = random.Random(4)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        name = f"killed{attempt}"
        process = _start(place, name, folder, rounds=100_000, clients=500)
        _let_go([name], folder)
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        said = int(output.split()[-1]) if output.split() else 1
        store = RunStore(place)
        run = store.get(name)
        assert run.status == "running"
        assert [entry["round"] for entry in run.rounds] == list(range(1, len(run.rounds) + 1))
        assert len(run.rounds) in (said, said + 1)
        assert len(store.clients(run.id)) == 500 * len(run.rounds)
        store.truncate(run.id, 1)
        assert len(store.clients(run.id)) == 500


def test_rounds_of_a_deleted_run_go_with_it_in_any_client(store: RunStore, new_run: NewRun) -> None:
    """The tables say so themselves: deleting by hand leaves nothing behind."""
    engine = sa.create_engine(store.url, poolclass=sa.NullPool)
    run_id = new_run()
    client = ClientRecord(client=1)
    store.append(run_id, RoundRecord(1, {}, [client], 1, 0.0, {}, 0, 0, "x"))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.execute(sa.text("DELETE FROM runs"))
        for table in ("rounds", "clients"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar() == 0


def test_sqlite_is_set_up_as_documented(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with sqlite3.connect(tmp_path / "fedsim.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    with store._engine.connect() as ours:
        assert ours.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert ours.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        assert ours.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
