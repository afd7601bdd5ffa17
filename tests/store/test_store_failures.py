"""The run store where something is wrong: each time an error that says what to do, and no loss."""

import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedsim.core import RoundRecord
from fedsim.errors import SetupError
from fedsim.store import RunStore

MakeRecord = Callable[..., RoundRecord]

_FILL = """
import resource, signal, sys
from pathlib import Path
from fedsim.core import ClientRecord, RoundRecord
from fedsim.errors import SetupError
from fedsim.store import RunStore

def record(number):
    rows = [ClientRecord(client=i, metrics={"loss": i / 7}) for i in range(500)]
    return RoundRecord(number, {}, rows, 500, 0.0, {}, 0, 0, "x")

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
else:
    (folder / "filler").write_bytes(b"x" * 2**18)
store = RunStore(folder / "runs")
run = store.create("full", {}, {}, {}, {})
number = 0
try:
    while number < 1000:
        store.append(run, record(number + 1))
        number += 1
except SetupError as error:
    print(error)
else:
    sys.exit("the disk was never full")
try:  # again, and the store must not have been harmed by the first time
    store.append(run, record(number + 1))
except SetupError:
    pass
else:
    sys.exit("the second time it was not full")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (folder / "filler").unlink()
store = RunStore(folder / "runs")
before = [entry["round"] for entry in store.get(run).rounds]
assert before == list(range(1, number + 1)), (before, number)
assert len(store.clients(run)) == 500 * number
store.append(run, record(number + 1))
assert len(store.clients(run)) == 500 * (number + 1)
with store._engine.connect() as connection:
    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
print("rounds", number)
"""


def _filled(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout.split()[-1]) >= 1
    return done.stdout


def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    output = _filled([sys.executable, "-c", _FILL, str(tmp_path), str(2**20)])
    assert "Free some space" in output
    assert "fedsim.db" in output


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a real file system of 2 MiB; it vanishes with the process that mounted it."""
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && "
    probe = subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("mounting a small file system takes root")
    script = tmp_path.with_suffix(".py")
    script.write_text(_FILL)
    inside = f"{mount} exec {sys.executable} {script} {tmp_path} 0"
    output = _filled(["unshare", "-m", "sh", "-c", inside])
    assert "database or disk is full. Free some space" in output


@contextmanager
def _unprivileged() -> Iterator[None]:
    """Be somebody whom permissions apply to, where we are root."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter; pytest's own they cannot."""
    folder = Path(tempfile.mkdtemp(prefix="fedsim-store-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_folder_is_found_at_once(open_folder: Path, make_record: MakeRecord) -> None:
    runs = open_folder / "runs"
    store = RunStore(runs)
    run_id = store.create("x", {}, {}, {}, {})
    for path in runs.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    runs.chmod(0o555)
    advice = "Permission denied. Make it writable, .* --runs or FEDSIM_RUNS"
    try:
        with _unprivileged():
            with pytest.raises(SetupError, match=f"cannot write to {runs}: {advice}"):
                RunStore(runs)
            with pytest.raises(SetupError, match=f"cannot write to {runs / 'new'}"):
                RunStore(runs / "new")
            with pytest.raises(SetupError, match=advice):
                store.preflight(0)
            with pytest.raises(SetupError, match="Make it writable"):
                store.append(run_id, make_record(1))
    finally:
        runs.chmod(0o755)
        for path in runs.rglob("*"):
            path.chmod(0o755)
    assert RunStore(runs).get(run_id).rounds == []


def test_a_run_that_cannot_have_a_folder_is_not_begun(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    store.root.rename(tmp_path / "moved")
    (tmp_path / "runs").mkdir()
    (tmp_path / "moved" / "fedsim.db").rename(tmp_path / "runs" / "fedsim.db")
    store.root = tmp_path / "gone"
    with pytest.raises(SetupError, match="No such file or directory"):
        store.create("x", {}, {}, {}, {})
    assert store.all() == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(SetupError, match=f"cannot write to {tmp_path / 'runs'}"):
        RunStore(tmp_path / "runs")


def test_preflight_asks_for_room(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.preflight(1)
    with pytest.raises(SetupError, match=r"MiB free; this run needs about 1099511627776 MiB"):
        store.preflight(2**60)
    assert [path.name for path in tmp_path.iterdir()] == ["fedsim.db"]


def test_a_database_of_another_version_is_refused_and_left_alone(place: str) -> None:
    store = RunStore(place)
    engine = sa.create_engine(store.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE fedsim_schema SET version = 3"))
    with pytest.raises(SetupError, match="has version 3 of the tables, this fedsim knows 2"):
        RunStore(place)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version FROM fedsim_schema")).scalar() == 3


def test_a_database_of_another_program_is_refused_and_left_alone(
    place: str, tmp_path: Path
) -> None:
    url = place if "://" in place else f"sqlite:///{tmp_path / 'fedsim.db'}"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE runs (run_uuid INTEGER)"))
    with pytest.raises(SetupError, match=r"another program .*\(runs\)"):
        RunStore(url if "://" in place else tmp_path)
    assert sa.inspect(engine).get_table_names() == ["runs"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fedsim.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SetupError, match=r"file is not a database. Choose another folder"):
        RunStore(tmp_path)


def test_a_store_somebody_else_writes_to_for_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: MakeRecord
) -> None:
    monkeypatch.setattr("fedsim.store._database._WAIT_S", 0.1)
    store = RunStore(tmp_path)
    run_id = store.create("x", {}, {}, {}, {})
    other = sqlite3.connect(tmp_path / "fedsim.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SetupError, match=r"database is locked\. Another process"):
        store.append(run_id, make_record(1))
    assert store.get(run_id).rounds == []  # readers do not wait
    other.execute("COMMIT")
    other.close()
    store.append(run_id, make_record(1))


def test_a_store_that_is_just_being_made_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses at once, without any waiting, to turn a file to WAL that is being written."""
    other = sqlite3.connect(tmp_path / "fedsim.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    run_id = RunStore(tmp_path).create("x", {}, {}, {}, {})
    timer.join()
    other.close()
    assert RunStore(tmp_path).get("last").id == run_id


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/db", "connection failed.*Check the URL"),
        ("postgresql+psycopg2://me:secret@h/db", r"pip install 'fedsim\[postgresql\]'"),
        ("mysql://me:secret@h/db", "of kind 'mysql': fedsim stores runs in a folder"),
        ("postgresql//://me:secret@h", "is not a URL"),
        ("sqlite://", "in memory"),
        ("sqlite:////nonexistent-folder/x/fedsim.db", "unable to open.*Make it writable"),
    ],
)
def test_a_bad_url_is_refused_without_telling_its_password(
    url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_RUN_FILES", str(tmp_path))
    with pytest.raises(SetupError, match=message) as caught:
        RunStore(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_refuses_is_explained(
    server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_RUN_FILES", str(tmp_path))
    url = server.url("no_such_database")  # type: ignore[attr-defined]
    with pytest.raises(SetupError, match=r'"no_such_database" does not exist\. Check'):
        RunStore(url)


def test_a_bare_postgresql_url_takes_the_driver_there_is(
    server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_RUN_FILES", str(tmp_path / "files"))
    url = server.new_database().replace("postgresql+psycopg", "postgresql")  # type: ignore[attr-defined]
    store = RunStore(url)
    run_id = store.create("x", {}, {}, {}, {})
    assert store.folder(run_id) == tmp_path / "files" / run_id
    assert RunStore(url.replace("postgresql", "postgres")).get("last").id == run_id


def test_the_place_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "a b?#%41"))
    run_id = RunStore().create("x", {}, {}, {}, {})
    assert (tmp_path / "a b?#%41" / "fedsim.db").is_file()
    monkeypatch.delenv("FEDSIM_RUNS")
    monkeypatch.chdir(tmp_path)
    RunStore()
    assert (tmp_path / "runs" / "fedsim.db").is_file()
    url = f"sqlite:///{tmp_path / 'other.db'}"
    RunStore(url)
    assert (tmp_path / "other.db").is_file()
    assert RunStore(tmp_path / "a b?#%41").get("last").id == run_id
