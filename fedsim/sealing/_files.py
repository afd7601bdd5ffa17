"""Sealed files: written whole or not at all, read whole or not at all."""

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import SealingError
from fedsim.files import replacing
from fedsim.sealing._envelope import (
    Label,
    Piece,
    memory_name,
    open_bytes,
    open_chunks,
    read_head,
    seal_chunks,
)
from fedsim.sealing._keys import StorageKeys
from fedsim.sealing._memory import shared_memory

__all__ = ["array_pieces", "read_array", "read_sealed", "write_sealed"]


def write_sealed(path: Path, pieces: Iterable[Piece], label: Label, keys: StorageKeys) -> None:
    """Replace a file by an envelope around a content that comes in pieces; never by a part of it.

    Raise `OSError` where it cannot be written.
    """
    with replacing(path) as file:
        for part in seal_chunks(pieces, label, keys):
            file.write(part)


def read_sealed(path: Path, expected: Label, keys: StorageKeys) -> bytes:
    """Return the content of a sealed file.

    Raise `OSError` where it cannot be read, `SealingError` where it is not what was sealed or not
    what is expected, `SetupError` where its storage key is not among the keys.
    """
    return open_bytes(path.read_bytes(), expected, keys, path)


def array_pieces(
    shape: tuple[int, ...], dtype: np.dtype[Any], rows: Iterable[NDArray[Any]]
) -> Iterator[Piece]:
    """Return a `.npy` file in pieces: its header, then the rows of the array, a few at a time."""
    header = BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    yield header.getvalue()
    for part in rows:
        plain = np.ascontiguousarray(part, dtype=dtype)
        yield plain.reshape(-1).view(np.uint8).data


def read_array(path: Path, expected: Label, keys: StorageKeys) -> NDArray[Any]:
    """Return a sealed `.npy` file as a read-only array, in memory that processes share.

    Raise as `read_sealed` does. A file that another process has opened is found there, not read
    again.
    """
    with path.open("rb") as file:
        head = read_head(file, path)
        head.label.must_be(expected, path)
        name = memory_name(head, head.data_key(keys, path))
        file.seek(0)
        memory = shared_memory(name, open_chunks(file, expected, keys, path))
    try:
        version = np.lib.format.read_magic(memory)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(memory)
    except ValueError as error:
        raise SealingError(f"{path} holds no array: {error}") from error
    order: Any = "F" if is_fortran else "C"
    return np.ndarray(shape, dtype, buffer=memory, offset=memory.tell(), order=order)
