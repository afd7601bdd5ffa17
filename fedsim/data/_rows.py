"""Blocks of rows as columns of three kinds, whatever they were read from; and their fingerprints.

A block is a table of NumPy arrays by column name: float64 numbers (NaN: empty; times are seconds
since 1970), text as objects (None: empty), or arrays of one shape per row, [n, ...], uint8 or
float32. The same rows from Parquet, from a database or from documents are the same block.
"""

import datetime as dt
import hashlib
import io
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import DataError

__all__ = [
    "Block",
    "column_of",
    "describe",
    "fingerprints",
    "is_empty",
    "is_empty_cell",
    "is_number",
    "is_text",
    "join",
    "length",
    "pictures",
    "take",
    "text_of",
]

Block = Mapping[str, NDArray[Any]]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def is_number(column: NDArray[Any]) -> bool:
    """Say if a column holds numbers."""
    return column.ndim == 1 and column.dtype.kind == "f"


def is_text(column: NDArray[Any]) -> bool:
    """Say if a column holds text."""
    return column.ndim == 1 and column.dtype.kind == "O"


def is_empty_cell(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of every row if its cell is empty."""
    if is_number(column):
        return np.asarray(np.isnan(column), dtype=bool)
    if is_text(column):
        return np.array([value is None for value in column], dtype=bool)
    return np.zeros(len(column), dtype=bool)


def is_empty(column: NDArray[Any]) -> bool:
    """Say if a column has nothing in it, so that it could be of any kind."""
    return bool(column.ndim == 1 and is_empty_cell(column).all())


def length(block: Block) -> int:
    """Return the number of rows."""
    return len(next(iter(block.values())))


def take(block: Block, rows: NDArray[Any]) -> Block:
    """Return some rows: by their places, or where a mask is true."""
    return {name: column[rows] for name, column in block.items()}


def join(blocks: Sequence[Block]) -> Block:
    """Return the rows of blocks one after the other; where all of a block is empty, any kind fits.

    Raises `DataError` where a column's kind or shape differs between blocks.
    """
    return {name: _joined(name, [block[name] for block in blocks]) for name in blocks[0]}


def text_of(column: NDArray[Any]) -> NDArray[Any]:
    """Return a column's values as text (None: empty); whole numbers have no decimal point."""
    if not is_number(column):
        return column
    return np.array([_number_text(value) for value in column.tolist()], dtype=object)


def fingerprints(block: Block) -> NDArray[np.uint64]:
    """Return 64 bits for every row that depend on its values and the columns' names alone.

    They say which rows are equal, put them into an order of their own, and do not know how they
    were kept: in which file, in which order of rows or columns.
    """
    total = np.zeros(length(block), dtype=np.uint64)
    for name in sorted(block):
        total += _mixed(_bits(block[name]) ^ np.uint64(_hash(b"column " + name.encode())))
    return _mixed(total)


def column_of(values: Sequence[Any], name: str) -> NDArray[Any]:
    """Return Python values as one column: numbers, times, text, truth values, lists or images.

    Raises `DataError` for values of two kinds, or of a kind that nothing can be learned from.
    """
    kinds = {_kind(value) for value in values} - {None}
    if len(kinds) > 1:
        raise DataError(f"column {name!r} holds both {' and '.join(sorted(map(str, kinds)))}")
    kind = next(iter(kinds), None)
    if kind in (None, "text"):
        return np.array([None if v is None else str(v) for v in values], dtype=object)
    if kind == "numbers":
        return np.array([math.nan if v is None else _number(v) for v in values], dtype=np.float64)
    if kind in ("lists", "bytes"):
        if any(value is None for value in values):
            raise DataError(f"column {name!r} has empty cells among its {kind}")
        return _arrays(values, name) if kind == "lists" else pictures(values, name)
    raise DataError(f"column {name!r} holds {kind}: name the features to use in data.features")


def pictures(values: Iterable[Any], name: str) -> NDArray[np.uint8]:
    """Decode images (PNG, JPEG, ...) to bytes [n, channels, height, width].

    Raises `DataError` for what is no image, or images of different sizes.
    """
    from PIL import Image

    decoded = []
    for value in values:
        try:
            with Image.open(io.BytesIO(bytes(value))) as image:
                kept = image if image.mode in ("L", "RGB") else image.convert("RGB")
                array = np.asarray(kept)
        except (OSError, ValueError) as error:
            raise DataError(f"column {name!r} holds bytes that are no image: {error}") from error
        decoded.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    return np.asarray(_stacked(decoded, name), dtype=np.uint8)


def _arrays(values: Sequence[Any], name: str) -> NDArray[Any]:
    try:
        arrays = [np.asarray(value, dtype=np.float32) for value in values]
    except (ValueError, TypeError) as error:
        raise DataError(f"column {name!r} has lists that are no array of numbers") from error
    return _stacked(arrays, name)


def _stacked(arrays: list[NDArray[Any]], name: str) -> NDArray[Any]:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise DataError(f"column {name!r} has values of shapes {first} and {second}: one is needed")
    return np.stack(arrays)


def _joined(name: str, columns: list[NDArray[Any]]) -> NDArray[Any]:
    kinds = {(c.dtype, c.shape[1:]) for c in columns if not is_empty(c)}
    if len(kinds) > 1:
        words = sorted(describe(c) for c in {(c.dtype, c.shape[1:]): c for c in columns}.values())
        raise DataError(f"column {name!r} holds both {' and '.join(words)}")
    if not kinds:
        return np.concatenate(columns) if len(columns) > 1 else columns[0]
    dtype, shape = next(iter(kinds))
    if shape and any(is_empty(column) and len(column) for column in columns):
        raise DataError(f"column {name!r} has empty cells among its arrays")
    fitting = [column if not is_empty(column) else _nothing(column, dtype) for column in columns]
    return np.concatenate([column.reshape(len(column), *shape) for column in fitting])


def describe(column: NDArray[Any]) -> str:
    """Say in words what a column holds."""
    if is_number(column):
        return "numbers"
    return "text" if is_text(column) else f"arrays of shape {column.shape[1:]}"


def _nothing(column: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    empty = None if dtype.kind == "O" else math.nan
    return np.full(len(column), empty, dtype=dtype if dtype.kind in "Of" else np.float64)


def _number_text(value: float) -> str | None:
    if math.isnan(value):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else str(value)


def _kind(value: Any) -> str | None:
    """Name the kind of a Python value; None where it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, str, uuid.UUID)):
        return "text"
    if isinstance(value, (int, float, Decimal, dt.date, dt.time, dt.timedelta, np.number)):
        return "numbers"
    if isinstance(value, (list, tuple, np.ndarray)):
        return "lists"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes"
    return f"values of type {type(value).__name__}"


def _number(value: Any) -> float:
    """Return a number, or a time in seconds: since 1970, without a zone as if it were UTC."""
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return (aware - _EPOCH).total_seconds()
    if isinstance(value, dt.date):
        return float((value - _EPOCH.date()).days * 86_400)
    if isinstance(value, dt.time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


def _bits(column: NDArray[Any]) -> NDArray[np.uint64]:
    """Return 64 bits for every cell."""
    if is_number(column):
        canonical = np.where(np.isnan(column), np.nan, column + 0.0)  # -0 is 0, one NaN
        return np.ascontiguousarray(canonical).view(np.uint64)
    if is_text(column):
        codes: dict[Any, int] = {}
        places = [codes.setdefault(value, len(codes)) for value in column.tolist()]
        hashes = [1 if v is None else _hash(b"text " + str(v).encode()) for v in codes]
        return np.array(hashes, dtype=np.uint64)[np.array(places, dtype=np.int64)]
    rows = np.ascontiguousarray(column)
    return np.array([_hash(row.tobytes()) for row in rows], dtype=np.uint64)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finish as SplitMix64 does (Steele, Lea and Flood 2014, figure 11): all bits of all."""
    z = bits + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
