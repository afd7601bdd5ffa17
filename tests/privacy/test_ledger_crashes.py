"""The ledger where something breaks: processes, disks. What was released is in it all the same."""

import errno
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.errors import LedgerError, SetupError
from fedsim.privacy.budget import Budget, Spent, _plan_fits
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import (
    Entry,
    Ledger,
    Receipt,
    Spend,
    ledger_path,
)

CHILDREN = Path(__file__).with_name("ledger_children.py")
RELEASE = Release("gaussian", 1.0, Sampling("poisson", 0.08))
LINES = 6


def entry(number: int, *spends: Spend, run: str = "run", plan: tuple[Spend, ...] = ()) -> Entry:
    spends = spends or (Spend(RELEASE, tuple(range(number % 7 + 1))),)
    time = "2026-01-01T00:00:00Z"
    return Entry(run, number, "example", "digits", time, "zero-out", spends, plan)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ledger_path(tmp_path, "digits", 64 * "a", "example")


@pytest.fixture(scope="module")
def content() -> tuple[bytes, bytes, tuple[Receipt, ...]]:
    """A ledger of a few lines, its head, and what it should be read as."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "x.jsonl")
        for number in range(LINES):
            ledger.admit(entry(number))
        files = (ledger.path.read_bytes(), ledger.path.with_suffix(".head").read_bytes())
        return *files, ledger.receipts()


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of ledgers need not reach a disk."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def stored(folder: str | Path, lines: bytes, head: bytes) -> Ledger:
    path = Path(folder) / "x.jsonl"
    path.write_bytes(lines)
    path.with_suffix(".head").write_bytes(head)
    return Ledger(path)


def test_a_line_torn_anywhere_is_set_aside_and_a_whole_one_counts(
    content: tuple[bytes, bytes, tuple[Receipt, ...]], quick_folder: Path
) -> None:
    lines, _, receipts = content
    before = receipts[-2]
    head = f"{before.number:012d} {before.hash}\n".encode()
    start = lines[:-1].rindex(b"\n") + 1
    for cut in range(start, len(lines) + 1):
        is_whole = cut >= len(lines) - 1
        folder = quick_folder / str(cut)
        folder.mkdir()
        ledger = stored(folder, lines[:cut], head)
        assert len(ledger.entries()) == LINES - 1 + is_whole
        assert ledger.spent().runs == {"run": LINES - 1 + is_whole}
        assert ledger.path.read_bytes() == lines[:cut]  # reading changes nothing
        assert ledger.admit(entry(99)).number == LINES + is_whole
        found = Ledger(ledger.path).receipts()
        assert found[: LINES - 1] == receipts[:-1]
        assert found[-1].entry == entry(99)
        torn = [file.read_bytes() for file in ledger.torn()]
        assert torn == ([] if is_whole or cut == start else [lines[start:cut]])
        shutil.rmtree(folder)


def test_a_line_that_lacks_only_its_newline_is_gone_on_after_by_others(path: Path) -> None:
    Ledger(path).admit(entry(1))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    reader = Ledger(path)
    assert reader.spent().runs == {"run": 1}
    assert Ledger(path).admit(entry(2)).number == 2
    assert reader.spent().runs == {"run": 2}
    assert reader.admit(entry(3)).number == 3
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    late = Ledger(path)
    assert late.spent().runs == {"run": 3}
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(LedgerError, match="line 3: goes on after its end"):
        late.spent()


def test_a_torn_line_after_a_torn_line(path: Path) -> None:
    for piece in (b'{"entry":', b'{"entry":', b"x"):
        ledger = Ledger(path)
        ledger.admit(entry(1))
        with path.open("ab") as file:
            file.write(piece)
        Ledger(path).admit(entry(2))
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(size)
    assert len(Ledger(path).entries()) == 6
    assert sorted(file.read_bytes() for file in Ledger(path).torn()) == [
        b"x",
        b'{"entry":',
        b'{"entry":',
    ]


def children(folder: Path, what: str, number: int) -> dict[str, list[list[int]]]:
    done = subprocess.run(
        [sys.executable, CHILDREN, folder, what, str(number)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "points", [40, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_kill_9_never_loses_what_was_released(points: int, tmp_path: Path) -> None:
    found = children(tmp_path, "kill", points)
    assert len(found["found"]) == points
    for released, entries in found["found"]:
        assert released <= entries
    assert found["found"][-1][0] > 0
    killed_between = found["found"][-1][1] - found["found"][-1][0]
    assert killed_between <= points  # at most the entry in work, each time


def test_processes_share_a_cap(tmp_path: Path) -> None:
    found = children(tmp_path, "compete", 3)
    assert len(found["runs"]) >= 2
    assert sum(found["released"]) == found["entries"] == found["alone"] > 20


# What cannot be written is not released.


_FILL = """
import resource, sys
from pathlib import Path
from ledger_children import entry
from fedsim.errors import SetupError
from fedsim.privacy.ledger import Ledger

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
else:
    (folder / "filler").write_bytes(b"x" * 40_000)
ledger, done = Ledger(folder / "ledger" / "x.jsonl"), 0
for _ in range(2):
    try:
        while done < 100_000:
            ledger.admit(entry("run", done))
            done += 1
    except SetupError as error:
        print(error)
    assert len(Ledger(ledger.path).entries()) == done
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (folder / "filler").unlink()
for reader in (ledger, Ledger(ledger.path)):
    reader.admit(entry("run", done))
    done += 1
    assert len(Ledger(ledger.path).entries()) == done
print(done)
"""


def filled(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(CHILDREN.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout.split()[-1]) > 3
    assert done.stdout.count("free some space") == 2
    return done.stdout


def test_a_file_that_may_not_grow_releases_nothing(tmp_path: Path) -> None:
    filled([sys.executable, "-c", _FILL, str(tmp_path), "10000"])


def test_a_full_disk_releases_nothing(tmp_path: Path) -> None:
    """On a real file system of 64 KiB; it vanishes with the process that mounted it."""
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && "
    probe = subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("mounting a small file system takes root")
    script = tmp_path.with_suffix(".py")
    script.write_text(_FILL)
    output = filled(
        ["unshare", "-m", "sh", "-c", f"{mount} exec {sys.executable} {script} {tmp_path} 0"]
    )
    assert "No space left on device; without it nothing is released" in output


def test_a_disk_that_does_not_confirm_releases_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(path)
    ledger.admit(entry(1))
    before = path.read_bytes()
    real = os.fsync

    def broken(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SetupError, match="Input/output error; without it nothing is released"):
        ledger.admit(entry(2))
    assert path.read_bytes() == before
    assert ledger.admit(entry(3)).number == 2


def test_the_disk_has_an_entry_before_it_is_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of the calls: line, fsync of the ledger, head; the folder too at first."""
    synced: list[tuple[str, int, bytes]] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        head = path.with_suffix(".head")
        size = path.stat().st_size if path.exists() else 0
        synced.append((name, size, head.read_bytes()[:12]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    ledger = Ledger(path)
    ledger.admit(entry(1))
    size = path.stat().st_size
    zero, one = b"000000000000", b"000000000001"
    assert synced == [
        (path.with_suffix(".head").name, 0, zero),
        ("ledger", 0, zero),
        (path.parent.parent.name, 0, zero),
        (path.name, size, zero),
    ]
    synced.clear()
    ledger.admit(entry(2))
    assert synced == [(path.name, path.stat().st_size, one)]


def test_a_process_that_keeps_the_lock_is_not_waited_for_forever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.chain._WAIT_S", 0.05)
    ledger = Ledger(path)
    ledger.admit(entry(1))
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match=r"another process has held its lock for 0\.05 s"):
            ledger.admit(entry(2))
        with pytest.raises(SetupError, match=r"cannot read .* another process"):
            ledger.entries()
    assert ledger.admit(entry(2)).number == 2


def test_what_takes_long_is_computed_before_the_lock_is_taken(path: Path) -> None:
    """A plan's loss distributions are there when the budget is asked."""
    planned = Spend(replace(RELEASE, count=11))
    ledger, budget = Ledger(path), Budget(3.0, 1e-5)
    asked: list[bool] = []
    real = Spent.check

    def watched(self: Spent, next_: Entry, budget: Budget) -> None:
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = _plan_fits.cache_info().misses
        real(self, next_, budget)
        asked.append(_plan_fits.cache_info().misses == before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spent, "check", watched)
        for number in range(11):
            ledger.admit(entry(number, Spend(RELEASE), plan=(planned,)), budget)
    assert asked == [True] * 11


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter; pytest's own they cannot."""
    folder = Path(tempfile.mkdtemp(prefix="fedsim-ledger-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_ledger_releases_nothing(open_folder: Path) -> None:
    ledger = Ledger(open_folder / "ledger" / "x.jsonl")
    ledger.admit(entry(1))
    os.seteuid(pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else os.getuid())
    try:
        if os.getuid() != 0:
            ledger.path.chmod(0o444)
            open_folder.chmod(0o555)
        with pytest.raises(SetupError, match=r"cannot write to the privacy ledger .*x\.jsonl"):
            ledger.admit(entry(2))
        with pytest.raises(SetupError, match=r"Permission denied; .*--runs"):
            Ledger(open_folder / "new" / "x.jsonl").admit(entry(2))
        assert len(ledger.entries()) == 1  # it can be read
    finally:
        os.seteuid(os.getuid())
        open_folder.chmod(0o755)
    if os.getuid() == 0:
        ledger.path.chmod(0o000)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            with pytest.raises(SetupError, match="cannot read the privacy ledger"):
                ledger.entries()
        finally:
            os.seteuid(0)
