"""Files of a data set: found in the data directory, or downloaded, and always verified."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import MissingDataError, NetworkError, SetupError

__all__ = ["File", "default_data_dir", "download", "find", "locate"]

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class File:
    """One file of a data set: its path under the data directory, its hash, where it comes from."""

    path: str
    sha256: str
    url: str


def default_data_dir() -> str:
    """Return where data sets are kept: `FEDSIM_DATA`, or a folder in the user's cache."""
    return os.environ.get("FEDSIM_DATA") or str(Path.home() / ".cache" / "fedsim" / "data")


def find(files: Sequence[File], data_dir: Path | None) -> list[Path] | None:
    """Return the files' paths if all of them are there; their contents are not looked at."""
    folder = Path(data_dir or default_data_dir())
    paths = [folder / file.path for file in files]
    return paths if all(path.is_file() for path in paths) else None


def locate(
    name: str,
    files: Sequence[File],
    data_dir: Path | None,
    progress: Callable[[str, int], None] = lambda path, size: None,
) -> list[Path]:
    """Return the verified files of a data set, downloading those that are missing.

    Raises `MissingDataError` for a file with another hash than the pinned one or that cannot be
    read, `NetworkError` where a download fails.
    """
    folder = Path(data_dir or default_data_dir())
    paths = []
    for file in files:
        path = folder / file.path
        if not path.is_file():
            try:
                download(file, path, progress)
            except NetworkError as error:
                raise NetworkError(
                    f"data set {name!r}: {path} is missing and could not be downloaded: {error}. "
                    "Put the file there, or point --data-dir or FEDSIM_DATA at a folder that has it"
                ) from error
        elif (found := _sha256(path)) != file.sha256:
            raise MissingDataError(
                f"data set {name!r}: {path} is not the published file: its sha256 is {found}, it "
                f"should be {file.sha256}. Delete it and fetch it again"
            )
        paths.append(path)
    return paths


def download(
    file: File, path: Path, progress: Callable[[str, int], None] = lambda path, size: None
) -> None:
    """Download one file; it appears at `path` only when complete and of the right hash.

    `progress(path, bytes_so_far)` is called as data arrive. Raises `NetworkError` where the server
    cannot be reached, refuses or breaks off, `MissingDataError` for a wrong hash, `SetupError` when
    the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise SetupError(f"cannot write to {path.parent}: {error.strerror}") from error
    part = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as out:
            digest = _stream(file, out.write, progress)
        if digest != file.sha256:
            raise MissingDataError(
                f"{file.url} gave a file with sha256 {digest}, not {file.sha256}: it was not kept"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _stream(
    file: File, write: Callable[[bytes], object], progress: Callable[[str, int], None]
) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as reply:
            expected = reply.headers.get("Content-Length")
            while chunk := reply.read(_CHUNK):
                write(chunk)
                digest.update(chunk)
                size += len(chunk)
                progress(file.path, size)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise NetworkError(f"{file.url} answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise NetworkError(f"{file.url} cannot be reached: {error}") from error
    if expected is not None and size != int(expected):
        raise NetworkError(f"{file.url} broke off after {size} of {expected} bytes")
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingDataError(f"cannot read {path}: {error.strerror}") from error
