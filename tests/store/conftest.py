"""Run stores on SQLite and on a real PostgreSQL server, which the tests start for themselves."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from fedsim.core import ClientRecord, RoundRecord
from fedsim.store import RunStore

_NAMES = count(1)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server on a Unix socket in a folder of its own."""

    folder: Path

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        return f"{driver}://fedsim@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        import psycopg

        name = f"test_{next(_NAMES)}"
        place = f"host={self.folder} user=fedsim dbname=postgres"
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _binaries() -> Path | None:
    """Find the folder of `initdb` and `postgres`, newest version first."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = [Path(found).parent for found in [shutil.which("initdb")] if found]
    for folder in (*installed, *on_path):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _unprivileged() -> str | None:
    """Name a user that PostgreSQL agrees to run as, where we are root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install psycopg[binary]")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: no initdb and postgres found")
    user = _unprivileged() if os.getuid() == 0 else None
    if os.getuid() == 0 and user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
    # Not pytest's folder: that one is closed to other users. Short: it holds a socket.
    folder = Path(tempfile.mkdtemp(prefix="fedsim-pg-"))
    try:
        yield from _running(binaries, folder, user)
    finally:
        shutil.rmtree(folder)


def _running(binaries: Path, folder: Path, user: str | None) -> Iterator[Server]:
    who: dict[str, object] = {}
    if user:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    cluster = folder / "data"
    initdb = [binaries / "initdb", "-D", cluster, "-U", "fedsim", "--auth=trust"]
    done = subprocess.run(
        [*initdb, "--encoding=UTF8", "--no-locale", "--no-sync"],
        cwd=folder,
        capture_output=True,
        text=True,
        **who,
    )
    assert done.returncode == 0, done.stderr
    command = [binaries / "postgres", "-D", cluster, "-k", folder, "-c", "listen_addresses="]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "-F"], cwd=folder, stdout=log, stderr=log, **who)
    try:
        _wait(process, folder)
        yield Server(folder)
    finally:
        process.send_signal(signal.SIGINT)  # the fast shutdown: open sessions are ended
        process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user="fedsim", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            log = (folder / "log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a new run store is: a folder, or the URL of an empty database."""
    monkeypatch.delenv("FEDSIM_RUNS", raising=False)
    monkeypatch.setenv("FEDSIM_RUN_FILES", str(tmp_path / "files"))
    if request.param == "sqlite":
        return str(tmp_path / "runs")
    return request.getfixturevalue("server").new_database()


@pytest.fixture
def store(place: str) -> RunStore:
    return RunStore(place)


@pytest.fixture
def new_run(store: RunStore) -> Callable[..., str]:
    """Make a run with little in it."""

    def make(name: str = "digits", **parts: dict[str, object]) -> str:
        content = {key: parts.get(key, {}) for key in ("config", "environment", "partition")}
        return store.create(name, facts=parts.get("facts", {}), **content)

    return make


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RoundRecord]:
    """Make a round with `count` clients; numbers depend on the round and on `salt`."""

    def make(number: int, count: int = 3, salt: float = 0.0, **more: object) -> RoundRecord:
        clients = [
            ClientRecord(
                client=client,
                weight=10.0 + client,
                metrics={"loss": 1.0 / (number + client + salt + 1), "examples": 10.0 + client},
                real_seconds=0.1 * client,
                bytes_down=100 + client,
                bytes_up=200 + client,
            )
            for client in range(count)
        ]
        content: dict[str, object] = {
            "round": number,
            "metrics": {"train/loss": 1.0 / (number + salt), "test/accuracy": 0.1 * number},
            "clients": clients,
            "cohort": count,
            "real_seconds": 0.5 + salt,
            "seconds": {"train": 0.25, "test": 0.125},
            "bytes_down": 100 * count,
            "bytes_up": 200 * count,
            "model_sha256": f"{number:064x}",
        }
        return RoundRecord(**{**content, **more})  # type: ignore[arg-type]

    return make
