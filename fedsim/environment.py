"""What a run ran on: versions, hardware and its limits, the state of the user's code."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["cpu_limit", "describe", "memory_limit_bytes"]

_PACKAGES = ("fedsim", "torch", "flwr", "ray", "numpy", "flwr-datasets", "scikit-learn")
_CGROUP = Path("/sys/fs/cgroup")


def describe(code: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the machine, the installed versions and the code in `code`'s folders."""
    import psutil
    import torch

    has_cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "cpus": cpu_limit(),
        "cpus_of_machine": os.cpu_count() or 1,
        "processor": _processor(),
        "memory_bytes": min(memory_limit_bytes(), psutil.virtual_memory().total),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if has_cuda
        else [],
        "git": _git(Path.cwd()),
        "code": {Path(folder).name: _code_sha256(Path(folder)) for folder in code},
    }


def cpu_limit(cgroup: Path = _CGROUP) -> int:
    """Return how many cores this process may use: affinity, and the cgroup's quota rounded down."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cpu_quota(cgroup)
    return max(1, min(available or 1, int(quota) if quota else sys.maxsize))


def memory_limit_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the cgroup's memory limit; a huge number where there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(cgroup / name)
        if text.isdigit():
            return int(text)
    return sys.maxsize


def _cpu_quota(cgroup: Path) -> float | None:
    second = _read(cgroup / "cpu.max").split()  # version 2: "quota period" or "max period"
    if len(second) == 2 and second[0].isdigit():
        return int(second[0]) / int(second[1])
    quota = _read(cgroup / "cpu/cpu.cfs_quota_us")  # version 1
    period = _read(cgroup / "cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


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

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        commit = ask("rev-parse", "HEAD").strip()
        changes = ask("status", "--porcelain", "--untracked-files=no")
        difference = ask("diff", "HEAD") if changes else ""
    except (OSError, subprocess.SubprocessError):
        return {}
    digest = hashlib.sha256(difference.encode()).hexdigest()[:16] if changes else ""
    return {"commit": commit, "is_dirty": bool(changes), "diff_sha256": digest}


def _code_sha256(folder: Path, most: int = 200) -> str:
    """Hash the Python files directly in a folder: where the user's model lives."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py"))[:most]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
