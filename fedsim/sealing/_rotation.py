"""Another storage key for sealed files: their data keys are wrapped anew, their data stay."""

from collections.abc import Iterator
from pathlib import Path

from fedsim.files import replacing
from fedsim.sealing._envelope import Head, read_head, rewrapped
from fedsim.sealing._keys import StorageKeys
from fedsim.sealing._log import segment_heads

__all__ = ["SUFFIX", "is_log", "rewrap_file", "sealed_files"]

SUFFIX = ".sealed"
_PIECE = 2**20


def sealed_files(folder: Path) -> Iterator[Path]:
    """Yield the sealed files under a folder, by their names."""
    yield from (path for path in sorted(folder.rglob(f"*{SUFFIX}")) if path.is_file())


def rewrap_file(path: Path, keys: StorageKeys) -> bool:
    """Wrap a file's data keys under the current storage key; say if there was anything to do.

    All other bytes stay what they are. The file is replaced whole, by a copy: overwriting the key
    in place could, in a crash, leave neither. Raise `OSError`, `SealingError` or `SetupError`; the
    file is then as it was.
    """
    with path.open("rb") as file:
        start = file.read(1)
        file.seek(0)
        if is_log(start):
            content = file.read()
            heads = segment_heads(content, keys, path)
            if not _is_due([head for _, head in heads], keys):
                return False
            _replace(path, _with_heads(content, heads, keys, path))
            return True
        head = read_head(file, path)
        if not _is_due([head], keys):
            return False
        new = rewrapped(head, keys, path).encode()
        _replace(path, _continued(new, iter(lambda: file.read(_PIECE), b"")))
    return True


def is_log(start: bytes) -> bool:
    """Say if a sealed file that begins like this is a log."""
    return start[:1] == b"H"


def _is_due(heads: list[Head], keys: StorageKeys) -> bool:
    return any(head.key_id != keys.current for head in heads)


def _with_heads(
    content: bytes, heads: list[tuple[int, Head]], keys: StorageKeys, name: object
) -> Iterator[bytes]:
    end = 0
    for start, head in heads:
        yield content[end:start]
        yield rewrapped(head, keys, name).encode()
        end = start + len(head.encode())
    yield content[end:]


def _continued(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


def _replace(path: Path, parts: Iterator[bytes]) -> None:
    with replacing(path) as file:
        for part in parts:
            file.write(part)
