"""The description of a machine: limits of containers, git, the user's code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fedsim import environment
from fedsim.environment import (
    cpu_limit,
    describe,
    keep_freed_memory,
    memory_above_now,
    memory_available_bytes,
    memory_limit_bytes,
)


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, Path]]:
    """Make a tree of cgroup files and a list of memberships, on a machine of 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def make(membership: str, **files: str) -> tuple[Path, Path]:
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        (tmp_path / "self").write_text(membership)
        return tmp_path / "cgroup", tmp_path / "self"

    return make


_UNLIMITED_V1 = str(2**63 - 4096)  # what the kernel writes: the largest number of whole pages

_CASES = [
    # version 2, in a container: the root is its own
    ("0::/\n", {"cpu.max": "400000 100000", "memory.max": "1024"}, 4, 1024),
    ("0::/\n", {"cpu.max": "150000 100000"}, 1, sys.maxsize),  # one and a half: one worker
    ("0::/\n", {"cpu.max": "50000 100000"}, 1, sys.maxsize),  # half a core is still one
    ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 16, sys.maxsize),
    ("0::/\n", {"cpu.max": "6400000 100000"}, 16, sys.maxsize),  # more than there are
    # version 2, a job in a slice: the least of all above it
    (
        "0::/slurm/job_7/step_0\n",
        {
            "slurm/cpu.max": "max 100000",
            "slurm/job_7/cpu.max": "300000 100000",
            "slurm/job_7/step_0/cpu.max": "500000 100000",
            "slurm/job_7/memory.max": "4096",
            "slurm/job_7/step_0/memory.max": "max",
            "slurm/job_8/cpu.max": "100000 100000",
            "slurm/job_8/memory.max": "1",
        },
        3,
        4096,
    ),
    # version 2, seen from outside of its namespace: nothing is found, nothing is assumed
    ("0::/../../elsewhere\n", {}, 16, sys.maxsize),
    # version 1, in a container: PATH is the host's, the mount is the container's
    (
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "200000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "2048",
        },
        2,
        2048,
    ),
    # version 1, a job
    (
        "5:memory:/job\n4:cpu,cpuacct:/job\n3:cpuset:/other\n",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/job/cpu.cfs_quota_us": "700000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": _UNLIMITED_V1,
            "memory/job/memory.limit_in_bytes": "8192",
            "cpu/other/cpu.cfs_quota_us": "100000",
            "cpu/other/cpu.cfs_period_us": "100000",
        },
        7,
        8192,
    ),
    ("4:memory:/\n", {"memory/memory.limit_in_bytes": _UNLIMITED_V1}, 16, int(_UNLIMITED_V1)),
    # both at once, as on machines between the two
    (
        "4:cpu:/a\n0::/a\n",
        {
            "unified/a/cpu.max": "900000 100000",
            "cpu/a/cpu.cfs_quota_us": "800000",
            "cpu/a/cpu.cfs_period_us": "100000",
        },
        8,
        sys.maxsize,
    ),
    ("", {}, 16, sys.maxsize),
    ("nonsense\n::\n", {"cpu.max": "garbage", "memory.max": "garbage"}, 16, sys.maxsize),
]


@pytest.mark.parametrize(("membership", "files", "cpus", "memory"), _CASES)
def test_limits_are_those_of_the_cgroups(
    cgroups: Callable[..., tuple[Path, Path]],
    membership: str,
    files: dict[str, str],
    cpus: int,
    memory: int,
) -> None:
    places = cgroups(membership, **files)
    assert cpu_limit(*places) == cpus
    assert memory_limit_bytes(*places) == memory


_MACHINE = 10**9  # free on the machine
_REST_CASES = [
    # version 2: the limit less what is used; caches of files that can be dropped count as free
    ("0::/\n", {"memory.max": "1000", "memory.current": "300"}, 700),
    (
        "0::/\n",
        {
            "memory.max": "1000",
            "memory.current": "900",
            "memory.stat": "anon 100\ninactive_file 500\nactive_file 300\n",
        },
        600,
    ),
    ("0::/\n", {"memory.max": "max", "memory.current": "300"}, _MACHINE),
    ("0::/\n", {"memory.max": "1000", "memory.current": "1200"}, 0),
    ("0::/\n", {"memory.max": str(2 * _MACHINE), "memory.current": "300"}, _MACHINE),
    # version 2, a job in a slice: whichever of all above it has the least left
    (
        "0::/slurm/job_7/step_0\n",
        {
            "slurm/memory.max": "5000",
            "slurm/memory.current": "4500",
            "slurm/job_7/memory.max": "2000",
            "slurm/job_7/memory.current": "900",
            "slurm/job_7/step_0/memory.max": "max",
            "slurm/job_7/step_0/memory.current": "900",
            "slurm/job_8/memory.max": "10",
            "slurm/job_8/memory.current": "10",
        },
        500,
    ),
    # version 1, in a container and as a job
    (
        "5:memory:/docker/abc\n",
        {
            "memory/memory.limit_in_bytes": "2048",
            "memory/memory.usage_in_bytes": "1048",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 24\n",
        },
        1024,
    ),
    (
        "5:memory:/job\n",
        {
            "memory/memory.limit_in_bytes": _UNLIMITED_V1,
            "memory/memory.usage_in_bytes": "9000",
            "memory/job/memory.limit_in_bytes": "8192",
            "memory/job/memory.usage_in_bytes": "192",
        },
        8000,
    ),
    ("", {}, _MACHINE),
    ("0::/\n", {"memory.max": "1000"}, _MACHINE),  # what is used is not said
    ("nonsense\n::\n", {"memory.max": "garbage", "memory.current": "garbage"}, _MACHINE),
]


@pytest.mark.parametrize(("membership", "files", "rest"), _REST_CASES)
def test_memory_that_may_still_be_taken(
    cgroups: Callable[..., tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    rest: int,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=_MACHINE))
    assert memory_available_bytes(*cgroups(membership, **files)) == rest


def test_blocks_are_as_wide_as_the_memory_of_the_cgroup_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedsim import config, tiers
    from fedsim.federation import build

    federation = build(config.load({"model": {"name": "linear"}}))
    before = tiers._room(federation, 2)
    rest = memory_available_bytes() // 100
    monkeypatch.setattr(environment, "memory_available_bytes", lambda: rest)
    assert before / 200 < tiers._room(federation, 2) < before / 50
    assert tiers._room(federation, 4) == pytest.approx(tiers._room(federation, 2) / 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_limits_too() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from fedsim.environment import cpu_limit; print(cpu_limit())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_description_is_json_and_true() -> None:
    found = json.loads(json.dumps(describe()))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for package in ("torch", "flwr", "ray", "numpy", "fedsim"):
        assert found["versions"][package] == version(package)
    assert 1 <= found["cpus"] <= found["cpus_of_machine"] == os.cpu_count()
    assert 2**28 < found["memory_bytes"] <= psutil.virtual_memory().total
    assert isinstance(found["gpus"], list)
    assert found["processor"]


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "repository"
    (folder / "below").mkdir(parents=True)
    (folder / "model.py").write_text("a = 1\n")
    _git(folder, "init", "-q")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "first")
    monkeypatch.chdir(folder / "below")
    return folder


def _state() -> dict[str, Any]:
    state: dict[str, Any] = describe()["git"]
    return state


def test_git_says_the_commit_and_whether_files_have_changed(repository: Path) -> None:
    commit = _git(repository, "rev-parse", "HEAD")
    assert _state() == {"commit": commit, "is_dirty": False, "diff_sha256": ""}
    (repository / "model.py").write_text("a = 2\n")
    changed = _state()
    assert (changed["commit"], changed["is_dirty"]) == (commit, True)
    (repository / "model.py").write_text("a = 3\n")
    assert _state()["diff_sha256"] not in ("", changed["diff_sha256"])
    (repository / "model.py").write_text("a = 2\n")
    assert _state() == changed
    _git(repository, "add", ".")  # staged or not is the same code
    assert _state() == changed
    _git(repository, "commit", "-q", "-m", "second")
    assert _state() == {
        "commit": _git(repository, "rev-parse", "HEAD"),
        "is_dirty": False,
        "diff_sha256": "",
    }


def test_a_difference_that_is_no_text_is_hashed(repository: Path) -> None:
    (repository / "model.py").write_bytes(b"\xff\xfe = 1\n")
    first = _state()["diff_sha256"]
    (repository / "model.py").write_bytes(b"\xff\xfd = 1\n")
    assert first not in ("", _state()["diff_sha256"])


def test_where_there_is_no_repository_or_no_git_nothing_is_said(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    assert _state() == {}
    monkeypatch.chdir(repository)
    assert _state() != {}
    monkeypatch.setenv("PATH", str(tmp_path / "plain"))
    assert _state() == {}


def test_the_hash_of_code_changes_with_what_python_would_import(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "package" / "deep").mkdir(parents=True)
    (folder / "model.py").write_text("a = 1")

    def code() -> dict[str, str]:
        found: dict[str, str] = describe([str(folder)])["code"]
        return found

    seen = [code()]
    assert list(seen[0]) == ["project"]
    for name, content in (
        ("model.py", "a = 2"),
        ("package/net.py", "b = 1"),
        ("package/deep/net.py", "b = 1"),
        ("package/net.py", "b = 2"),
    ):
        (folder / name).write_text(content)
        assert code() not in seen
        seen.append(code())
    (folder / "model.py").rename(folder / "other.py")
    assert code() not in seen
    (folder / "other.py").rename(folder / "model.py")
    for name in ("notes.txt", ".venv/x.py", "runs/x.py", "__pycache__/x.py", "venv/x.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("c = 1")
    assert code() == seen[-1]


def test_code_is_hashed_whatever_lies_there(tmp_path: Path) -> None:
    """Nothing in the user's folder may keep a run from starting."""
    first, second = tmp_path / "a" / "project", tmp_path / "b" / "project"
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / "dangling.py").symlink_to(tmp_path / "nowhere")
    (first / "folder.py").mkdir()
    (first / "bytes.py").write_bytes(b"\xff\x00")
    (second / "model.py").write_text("")
    (tmp_path / "empty").mkdir()
    folders = [first, second, tmp_path / "empty", tmp_path / "missing"]
    found = describe([str(folder) for folder in folders])["code"]
    assert list(found) == ["project", str(second)]  # two of one name are told apart
    assert len(set(found.values())) == 2


def test_a_home_directory_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_MOST", 3)
    for number in range(6):
        (tmp_path / f"{number}.py").write_text("")
    before = describe([str(tmp_path)])["code"]
    (tmp_path / "5.py").write_text("changed, but beyond what is read")
    assert describe([str(tmp_path)])["code"] == before
    (tmp_path / "2.py").write_text("changed")
    assert describe([str(tmp_path)])["code"] != before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
def test_the_most_memory_since_is_told_even_when_it_was_freed() -> None:
    import torch

    size = 200 * 2**20
    keep_freed_memory()  # as workers do; what was freed is taken again
    pieces = [torch.ones(size // 200, dtype=torch.uint8) for _ in range(200)]
    del pieces
    taken = memory_above_now(torch.device("cpu"))
    assert taken() < size / 10
    touched = torch.ones(size, dtype=torch.uint8)
    del touched
    assert size * 0.95 < taken() < size * 1.1


def test_where_the_system_does_not_say_it_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refused(*args: Any, **options: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    assert memory_above_now(torch.device("cpu"))() == 0
