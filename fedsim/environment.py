"""What a run ran on: versions, hardware and its limits, the state of the user's code."""

import ctypes
import gc
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = [
    "code_sha256",
    "cpu_limit",
    "describe",
    "free_gpu_memory",
    "is_out_of_memory",
    "keep_freed_memory",
    "memory_above_now",
    "memory_available_bytes",
    "memory_limit_bytes",
    "one_thread",
    "package_versions",
    "python_files",
    "seed_what_is_there",
    "settled",
    "without_collector",
]

_PACKAGES = ("fedsim", "torch", "flwr", "ray", "numpy", "flwr-datasets", "scikit-learn")
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_GIT_TIMEOUT_S = 20
_KEPT_BYTES = 2**30
# Of torch on a CPU, of CUDA outside torch's allocator and of its libraries: plain RuntimeErrors.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_DEEP = 3  # levels of folders below a user's code folder that are hashed
_MOST = 500  # files, folders: a run started in a home directory must not read all of it


def describe(code: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the machine, the installed versions, and the user's code in the folders `code`.

    `git` is the state of the working directory's repository: commit, whether tracked files have
    changes, their hash; empty without one. `code` has, by folder, a hash of its Python files.
    """
    import psutil
    import torch

    has_cuda = torch.cuda.is_available()
    count = torch.cuda.device_count() if has_cuda else 0
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": package_versions(_PACKAGES),
        "cpus": cpu_limit(),
        "cpus_of_machine": os.cpu_count() or 1,
        "processor": _processor(),
        "memory_bytes": min(memory_limit_bytes(), psutil.virtual_memory().total),
        "gpus": [torch.cuda.get_device_name(i) for i in range(count)],
        "git": _git(Path.cwd()),
        "code": _code([Path(folder) for folder in code]),
    }


def cpu_limit(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return how many cores this process may use: affinity, and the cgroup's quota rounded down.

    The quotas of all cgroups above this process's count too; both versions of cgroups are read.
    """
    quotas = [
        quota
        for folder in _cgroups("cpu", cgroups, membership)
        for quota in (_quota_v2(folder), _quota_v1(folder))
        if quota is not None
    ]
    return max(1, int(min([_affinity(), *quotas])))


def memory_limit_bytes(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return the least memory limit of this process's cgroups; a huge number where there is none.

    Version 1 writes a huge number where there is no limit, version 2 the word "max".
    """
    limits = [
        int(text)
        for folder in _cgroups("memory", cgroups, membership)
        for text in (_read(folder / "memory.max"), _read(folder / "memory.limit_in_bytes"))
        if text.isdigit()
    ]
    return min(limits, default=sys.maxsize)


def memory_available_bytes(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return how much memory this process may still take: the machine's, and its cgroups' rest.

    File caches that a cgroup can drop count as free, as they do for the machine.
    """
    import psutil

    rests = [
        rest
        for folder in _cgroups("memory", cgroups, membership)
        for rest in (
            _rest(folder, "memory.max", "memory.current", "inactive_file"),
            _rest(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        )
        if rest is not None
    ]
    return max(0, min([psutil.virtual_memory().available, *rests]))


def memory_above_now(device: "torch.device") -> Callable[[], int]:
    """Return what says how much more memory than now was taken at the most since, in bytes.

    On a GPU torch's own, else what this process held; 0 where the system does not say (not Linux).
    What was freed before is given back first: to take it again has to count.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return lambda: torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the most that was held is now what is held
        held = _most_held()
    except OSError:
        return lambda: 0
    return lambda: _most_held() - held


def _most_held() -> int:
    lines = _read(Path("/proc/self/status")).splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is one of too little memory, on the CPU or on a GPU."""
    import torch

    is_typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_typed or any(text in str(error) for text in _OUT_OF_MEMORY)


def free_gpu_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later, so that others can have it."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _rest(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return what a cgroup has left of its memory limit; None where it has no limit."""
    most, used = _read(folder / limit), _read(folder / usage)
    if not (most.isdigit() and used.isdigit()):
        return None
    words = [line.split() for line in _read(folder / "memory.stat").splitlines()]
    droppable = sum(int(pair[1]) for pair in words if len(pair) == 2 and pair[0] == cache)
    return int(most) - int(used) + droppable


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _cgroups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """List the folders of the cgroups this process is in, each followed by those above it.

    A line of `membership` is ID:CONTROLLERS:PATH; version 2 has no controllers. In a container
    PATH may be as the host sees it, while `root` is already the container's own: then only the
    root exists here.
    """
    yield root
    yield root / controller
    for line in _read(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mounts = {controllers, controller} if controllers else {"", "unified"}
        for mount in sorted(mounts):
            inside = Path(path.lstrip("/"))
            for folder in (inside, *inside.parents):
                yield root / mount / folder


def _quota_v2(folder: Path) -> float | None:
    """Return the cores of `cpu.max`: "QUOTA PERIOD", or "max PERIOD" without a limit."""
    words = _read(folder / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    return None


def _quota_v1(folder: Path) -> float | None:
    """Return the cores of `cpu.cfs_quota_us`, which is -1 without a limit."""
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Have this process keep memory that it frees, up to a gigabyte, and use it again.

    Training allocates and frees the same tensors at every step. By default glibc gives large ones
    back to the system each time, and to get them back zeroed costs more than computing with them:
    measured, up to 40 % of a round. Other C libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # from malloc.h
    try:
        options = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option in (trim_threshold, mmap_threshold):
        options(option, _KEPT_BYTES)


def seed_what_is_there() -> None:
    """Let `torch.manual_seed` pass over kinds of accelerators that this process does not have.

    It writes down where it was called from, for each of them: together half a millisecond, as long
    as a small client's step. Nothing else depends on it.
    """
    import torch

    kinds: tuple[Any, ...] = (torch.cuda, torch.xpu, torch.mtia)
    for kind in kinds:
        if not kind.is_available():
            kind.manual_seed_all = lambda seed: None


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in one thread inside: with more of them sums can differ in last bits.

    So it is wherever clients are trained or their updates summed, and the bytes are the same there.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def settled() -> Iterator[None]:
    """Leave everything that exists by now out of garbage collection, until the end.

    Libraries leave half a million objects behind. Each round makes thousands, so that the collector
    would go through all of them again and again: measured, to read a thousand clients' numbers then
    takes 20 ms instead of 4.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python from looking for garbage during imports: a tenth of their time.

    What is there afterwards is left out of garbage collection (until a run ends: see `settled`), or
    the collector would go through all of it as soon as it may, which takes as long.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of packages, by name."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path) -> dict[str, Any]:
    """Describe the repository around a folder; empty where there is none or no git."""

    def ask(*arguments: str) -> bytes:
        # No optional locks: a commit that the user makes meanwhile must not fail because of us.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, check=True, timeout=_GIT_TIMEOUT_S)
        return done.stdout

    try:
        commit = ask("rev-parse", "HEAD").decode().strip()
        # As bytes, and as git itself makes it: files need not be UTF-8, users configure their own.
        difference = ask("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return {}
    digest = hashlib.sha256(difference).hexdigest()[:16] if difference else ""
    return {"commit": commit, "is_dirty": bool(difference), "diff_sha256": digest}


def _code(folders: Sequence[Path]) -> dict[str, str]:
    """Hash each folder that has Python files, by its name, so that machines can be compared."""
    hashes: dict[str, str] = {}
    for folder in folders:
        if digest := code_sha256(folder):
            name = folder.name or str(folder)
            hashes[name if name not in hashes else str(folder)] = digest
    return hashes


def code_sha256(folder: Path) -> str:
    """Hash the Python files in a folder and near below it; empty where there are none.

    Machines whose hashes are equal have the same code.
    """
    digest = hashlib.sha256()
    paths = list(python_files(folder))
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            content = f"unreadable: {error.strerror}".encode()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16] if paths else ""


def python_files(folder: Path) -> Iterator[Path]:
    """List the Python files in a folder and near below it, in order, and not more than 500."""
    return islice(_below(folder), _MOST)


def _below(folder: Path) -> Iterator[Path]:
    """List Python files in order; hidden folders, installed packages and caches are not code."""
    for where, below, names in islice(os.walk(folder), _MOST):
        inside = Path(where).relative_to(folder)
        below[:] = sorted(
            name
            for name in below
            if len(inside.parts) < _DEEP
            and not name.startswith(".")
            and name not in ("__pycache__", "node_modules", "site-packages", "runs", "venv")
        )
        yield from (Path(where) / name for name in sorted(names) if name.endswith(".py"))
