"""Checks of a machine: each a plain function that says what it found and how to mend it."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from fedsim.environment import cpu_limit, memory_available_bytes, memory_limit_bytes

__all__ = ["Check", "examine"]

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` says what to do where `status` is not "ok"."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def examine(runs: str | None = None) -> list[Check]:
    """Run all checks; a check that itself breaks is a failed check."""
    place = runs or os.environ.get("FEDSIM_RUNS") or "runs"
    folder = Path("runs" if "://" in place else place).absolute()
    cache = Path(os.environ.get("FEDSIM_DATA") or Path.home() / ".cache" / "fedsim" / "data")
    checks: list[Callable[[], Check]] = [
        python,
        *(lambda name=name: package(name) for name in ("torch", "flwr", "ray", "flwr-datasets")),
        cuda,
        cores,
        memory,
        lambda: disk(folder),
        shared_memory,
        ports,
        lambda: writable("runs folder", folder),
        lambda: writable("data folder", cache),
        lambda: writable("Ray's temporary folder", Path(tempfile.gettempdir())),
    ]
    return [_guarded(check) for check in checks]


def python() -> Check:
    """Check the Python version."""
    found = ".".join(map(str, sys.version_info[:3]))
    is_new = tuple(sys.version_info) >= (3, 11)
    fix = "" if is_new else "install Python 3.11 or newer"
    return Check("Python", "ok" if is_new else "fail", found, fix)


def package(name: str) -> Check:
    """Check that a package is installed and imports."""
    import importlib

    try:
        found = version(name)
        importlib.import_module(name.replace("-", "_"))
    except PackageNotFoundError:
        fix = "pip install -c constraints.txt ."
        return Check(name, "fail", "not installed", fix)
    except Exception as error:
        return Check(name, "fail", f"{found}, import fails: {error}", f"pip install -U {name}")
    return Check(name, "ok", found)


def cuda() -> Check:
    """Check for GPUs that torch can use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("CUDA", "ok", f"{len(names)} GPU(s): {', '.join(names)}")
    if shutil.which("nvidia-smi"):
        fix = (
            "install a CUDA build of torch that fits the driver; CUDA_VISIBLE_DEVICES may hide GPUs"
        )
        return Check("CUDA", "warn", "a GPU driver, but torch sees no GPU", fix)
    return Check("CUDA", "ok", "no GPU: runs use the CPU")


def cores() -> Check:
    """Compare the machine's cores with what this process may use."""
    machine, usable = os.cpu_count() or 1, cpu_limit()
    if usable < machine:
        found = f"{usable} of {machine} usable (cgroup or affinity)"
        return Check("cores", "warn", found, f"fine: runs take {usable} worker(s); raise the limit")
    return Check("cores", "ok", f"{usable}")


def memory() -> Check:
    """Check memory, the cgroup's limit included."""
    import psutil

    total = min(psutil.virtual_memory().total, memory_limit_bytes())
    free = memory_available_bytes()
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < 2 * _GIB:
        return Check("memory", "warn", found, "each Ray worker needs about 0.6 GiB: fewer workers")
    return Check("memory", "ok", found)


def disk(folder: Path) -> Check:
    """Check the free space where runs are kept."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _GIB / 5:
        return Check("disk", "fail", found, "free some space or choose another folder with --runs")
    return Check(
        "disk", "warn" if free < 2 * _GIB else "ok", found, "free some space" * (free < 2 * _GIB)
    )


def shared_memory() -> Check:
    """Check /dev/shm, where Ray keeps what processes share."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "warn", "no /dev/shm", "Ray falls back to a slower folder")
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.2f} GiB free in /dev/shm"
    if free < _GIB / 4:
        fix = "enlarge it (docker run --shm-size=2g), or use engine.grid=inprocess"
        return Check("shared memory", "warn", found, fix)
    return Check("shared memory", "ok", found)


def ports() -> Check:
    """Check that a loopback port can be opened, as Ray does."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return Check("ports", "ok", "loopback connections work")
    except OSError as error:
        fix = "allow connections to 127.0.0.1, or use engine.grid=inprocess"
        return Check("ports", "fail", str(error), fix)


def writable(name: str, folder: Path) -> Check:
    """Check that a folder, or the first of its parents that exists, can be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check(name, "ok", str(folder))
    except OSError as error:
        fix = "make it writable, or choose another (--runs, --data-dir, TMPDIR)"
        return Check(name, "fail", f"{folder}: {error.strerror}", fix)


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        name = getattr(check, "__name__", "check")
        return Check(name, "fail", f"the check itself failed: {error!r}", "report this")
