"""Paths, files that are replaced whole or not at all, and files that only their owner can read."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedsim.errors import SetupError

__all__ = [
    "from_home",
    "make_private_folder",
    "read_public",
    "read_secret",
    "replacing",
    "sync_folder",
    "write_secret",
]

_OTHERS = 0o077  # any permission of group or others


def from_home(path: str) -> Path:
    """Return a path with `~` and `~user` resolved; that of an unknown user stays as it is.

    So it is no file that exists, and is reported as any other such path is.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises for unknown users


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of `path` at the end, synced; else `path` stays.

    `mode`: the permissions, from the first byte on; by default those that the user's umask gives.
    After a crash at any point there is the old file or the new one, complete. Raise `OSError` where
    it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), _usual_mode() if mode is None else mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> bytes:
    """Return the content of a file that nobody but its owner can read.

    Raise `SetupError` where it is missing, or where its permissions let others read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OTHERS:
                raise SetupError(
                    f"{path} has permissions {mode:04o}: it holds a secret, and others than its "
                    f"owner can use it. Make it 0600: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror or error}") from error


def read_public(path: Path) -> bytes:
    """Return the content of a file that is no secret; raise `SetupError` where it is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror or error}") from error


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner can read, replacing an old one whole.

    Raise `SetupError` where it cannot be written.
    """
    try:
        with replacing(path, 0o600) as file:
            file.write(content)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}") from error


def make_private_folder(path: Path) -> None:
    """Make a folder that nobody but its owner can enter, or make that of one there is.

    Raise `SetupError` where that is not possible.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise SetupError(f"cannot make the folder {path}: {error.strerror or error}") from error


def _usual_mode() -> int:
    """Return what a new file gets: the umask can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
