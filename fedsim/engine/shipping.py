"""The user's code on nodes that do not have it: its Python files travel with the workers.

Where a folder of the user's is on a node as it is where the run began (a shared path), it is used
there: then what lies beside the code is found too. Where it is missing or another state of it, the
node gets a copy of the Python files, in Ray's folder of the session, which goes with the session.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.environment import code_sha256, python_files

__all__ = ["Folder", "arrive", "pack"]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the user's: the hash of its Python files, and the files by their path in it."""

    path: str
    sha256: str
    files: tuple[tuple[str, bytes], ...]


def pack(folders: Sequence[str]) -> tuple[Folder, ...]:
    """Read the Python files of folders, near below them: as many as are hashed for a run's record.

    Files that cannot be read stay behind.
    """
    return tuple(_read(Path(folder)) for folder in folders if Path(folder).is_dir())


def arrive(folders: Sequence[Folder], into: Path) -> dict[str, str]:
    """Return, by its path where the run began, where each folder is on this node.

    What has to be written goes into a folder of its own below `into`, once for all workers.
    """
    return {folder.path: str(_place(folder, into)) for folder in folders}


def _read(folder: Path) -> Folder:
    files = []
    for path in python_files(folder):
        try:
            files.append((path.relative_to(folder).as_posix(), path.read_bytes()))
        except OSError:
            continue
    return Folder(str(folder), code_sha256(folder), tuple(files))


def _place(folder: Folder, into: Path) -> Path:
    here = Path(folder.path)
    if here.is_dir() and code_sha256(here) == folder.sha256:
        return here
    copy = into / f"code-{folder.sha256 or 'empty'}"
    if not copy.is_dir():
        _write(folder, copy)
    return copy


def _write(folder: Folder, copy: Path) -> None:
    """Write a copy that appears whole or not at all: several workers may do it at once."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=copy.parent))
    for name, content in folder.files:
        path = draft / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        os.rename(draft, copy)  # noqa: PTH104 - the destination must not be a folder with files
    except OSError:  # another worker was first
        shutil.rmtree(draft, ignore_errors=True)
