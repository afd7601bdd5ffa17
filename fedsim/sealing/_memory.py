"""Opened content in memory that processes share: a file without a name, on no disk.

The first process that opens a sealed array decrypts it into a memory file (memfd_create(2)), seals
that against changes and maps it. Every other process of the same user that can open the sealed file
finds the memory file under the first one's descriptors and maps the same pages: one copy per
machine, as with plain mapped files, and nothing of it is left when the last process ends, however
it ends. Where the system has no memory files every process has a copy of its own.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["shared_memory"]

_HAS_MEMORY_FILES = hasattr(os, "memfd_create")


def shared_memory(name: str, pieces: Iterable[bytes]) -> mmap.mmap:
    """Return the content of the given name, read-only: what another process has, or the pieces.

    `name` must be a secret that stands for this content. The pieces, at least one byte, are read to
    their end first: where they raise, nothing is shared.
    """
    if not _HAS_MEMORY_FILES:  # pragma: no cover - not on Linux
        return _own_memory(pieces)
    return _found(f"fedsim-{name}") or _made(f"fedsim-{name}", pieces)


def _made(name: str, pieces: Iterable[bytes]) -> mmap.mmap:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            for piece in pieces:
                file.write(piece)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
        mapped = _mapped(f"/proc/self/fd/{descriptor}")
        assert mapped is not None
        return mapped
    finally:
        os.close(descriptor)


def _seals() -> int:
    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def _mapped(path: str) -> mmap.mmap | None:
    """Map a memory file that is finished; None where it is not.

    Mapping keeps a descriptor open, under which others find the file. It is opened anew, read-only:
    before Linux 6.7 a sealed file cannot be mapped through a descriptor that may write.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _seals() != _seals():
            return None
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _found(name: str) -> mmap.mmap | None:
    """Look for a finished memory file among the descriptors of this user's processes."""
    for path in _descriptors():
        try:
            if os.readlink(path) != f"/memfd:{name} (deleted)":  # noqa: PTH115 - thousands of them
                continue
            mapped = _mapped(path)
        except OSError:  # closed in the meantime
            continue
        if mapped is not None:
            return mapped
    return None


def _descriptors() -> Iterator[str]:
    """Yield the descriptors of this process, then those of this user's others."""
    own, user = os.getpid(), os.geteuid()
    others = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for process in [own, *sorted(set(others) - {own})]:
        folder = f"/proc/{process}/fd"
        try:
            if os.stat(folder).st_uid == user:  # noqa: PTH116 - thousands of them
                yield from [f"{folder}/{entry}" for entry in os.listdir(folder)]  # noqa: PTH208
        except OSError:  # ended in the meantime, or not to be looked into
            continue


def _own_memory(pieces: Iterable[bytes]) -> mmap.mmap:  # pragma: no cover - not on Linux
    content = b"".join(pieces)
    memory = mmap.mmap(-1, len(content))
    memory.write(content)
    memory.seek(0)
    return memory
