"""Masks on vectors of uint32, and the bytes that masked vectors travel as.

A mask is the keystream of AES-256-CTR under a key, read as little-endian 32-bit words; it is added
modulo 2^32. What a vector means is its value modulo 2^bits, and 2^bits divides 2^32, so the masks
of a whole cohort cancel for every width, and the low bits of a mask are as uniform as all of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.crypto import ctr_stream

__all__ = [
    "WIDTHS",
    "Sign",
    "add_mask",
    "add_masks",
    "add_packed",
    "pack",
    "packed_bytes",
    "unpack",
]

WIDTHS = (8, 12, 16, 20, 24, 28, 32)  # bits of a coordinate on the wire
Sign = Literal[1, -1]

_PIECE = 2**16  # words: target, mask and zeros of one piece stay in a core's cache
_TOGETHER = 64  # keys, each with the schedule of a cipher in memory


def add_mask(target: NDArray[np.uint32], key: bytes, sign: Sign) -> None:
    """Add (1) or subtract (-1) the mask of a key, in place.

    >>> vector = np.zeros(2, np.uint32)
    >>> add_mask(vector, bytes(32), 1)
    >>> [f"{word:08x}" for word in vector]
    ['78c095dc', '898940a2']
    """
    add_masks(target, [(key, sign)])


def add_masks(
    target: NDArray[np.uint32], masks: Iterable[tuple[bytes, Sign]], *, threads: int = 1
) -> None:
    """Add or subtract masks of many keys, in place; faster than one after the other.

    The vector is gone through piece by piece, once for every few dozen keys. No key may serve
    another vector. Each thread but the first has a vector of its own, added in the end: sums of
    integers do not depend on who adds what.
    """
    if target.dtype != np.uint32 or target.ndim != 1 or not target.flags.c_contiguous:
        raise ValueError(f"target: a contiguous vector of uint32, not {target.dtype}")
    remaining, lock = iter(masks), Lock()

    def work(own: NDArray[np.uint32]) -> None:
        while True:
            with lock:
                some = list(islice(remaining, _TOGETHER))
            if not some:
                return
            _add_some(own, some)

    if threads == 1:
        work(target)
        return
    others = [np.zeros_like(target) for _ in range(threads - 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [target, *others]))
    for other in others:
        target += other


def _add_some(target: NDArray[np.uint32], masks: Sequence[tuple[bytes, Sign]]) -> None:
    streams = [(ctr_stream(key), np.add if sign == 1 else np.subtract) for key, sign in masks]
    scratch = np.empty(min(_PIECE, target.size), "<u4")
    for piece in _pieces(target.size):
        part, words = target[piece], scratch[: piece.stop - piece.start]
        view = words.view(np.uint8).data
        for stream, apply in streams:
            stream.read_into(view)
            apply(part, words, out=part)


def packed_bytes(bits: int, length: int) -> int:
    """Return the size of a packed vector: bits / 8 bytes a coordinate, rounded up.

    >>> packed_bytes(20, 1_000_000)
    2500000
    """
    if bits not in WIDTHS:
        raise ValueError(f"bits = {bits}: one of {', '.join(map(str, WIDTHS))}")
    return (bits * length + 7) // 8


def pack(vector: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Return the low `bits` of each coordinate, without gaps.

    Digit by digit, not coordinate by coordinate: all low 16 bits, then all next 8, then all next 4,
    as far as the width has them. Copying columns of digits is several times faster than shifting
    bits together. Of the 4-bit digits, the first half of the vector's are the low halves of bytes.
    """
    packed = np.empty(packed_bytes(bits, vector.size), np.uint8)
    for low, width, column in _columns(packed, bits, vector.size):
        if width == 4:
            first, second = _halves(vector)
            for piece in _pieces(first.size):
                column[piece] = first[piece] >> np.uint32(low) & np.uint32(15)
            for piece in _pieces(second.size):
                column[piece] |= (second[piece] >> np.uint32(low) << np.uint32(4)).astype(np.uint8)
        else:
            for piece in _pieces(vector.size):
                column[piece] = vector[piece] >> np.uint32(low)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int, length: int) -> NDArray[np.uint32]:
    """Undo `pack`; raise `ValueError` where the bytes are not what it makes of such a vector."""
    vector = np.zeros(length, np.uint32)
    add_packed(vector, packed, bits)
    return vector


def add_packed(target: NDArray[np.uint32], packed: NDArray[np.uint8], bits: int) -> None:
    """Add a packed vector, in place; raise `ValueError` as `unpack` does, with nothing added."""
    size = packed_bytes(bits, target.size)
    if packed.dtype != np.uint8 or packed.shape != (size,):
        raise ValueError(
            f"{packed.dtype} {packed.shape}: {target.size} coordinates of {bits} bits are {size} "
            "bytes"
        )
    if bits * target.size % 8 and packed[-1] >> 4:
        raise ValueError("the unused half of the last byte is not zero")
    for low, width, column in _columns(np.ascontiguousarray(packed), bits, target.size):
        if width == 4:
            first, second = _halves(target)
            for piece in _pieces(first.size):
                first[piece] += (column[piece] & np.uint8(15)).astype(np.uint32) << np.uint32(low)
            for piece in _pieces(second.size):
                second[piece] += (column[piece] >> np.uint8(4)).astype(np.uint32) << np.uint32(low)
        else:
            for piece in _pieces(target.size):
                digits = column[piece].astype(np.uint32, copy=False)
                target[piece] += digits << np.uint32(low) if low else digits


def _columns(
    packed: NDArray[np.uint8], bits: int, length: int
) -> Iterator[tuple[int, int, NDArray[np.unsignedinteger]]]:
    """Yield where in a coordinate a digit begins, its width, and that digit of all coordinates."""
    start = 0
    for low, width in _digits(bits):
        stop = start + (width * length + 7) // 8
        yield low, width, packed[start:stop].view(f"<u{max(width // 8, 1)}")
        start = stop


def _halves(vector: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    half = (vector.size + 1) // 2
    return vector[:half], vector[half:]


def _pieces(length: int) -> Iterator[slice]:
    """Cut a vector into what stays in a core's cache, with what is made of it on the way."""
    for start in range(0, length, _PIECE):
        yield slice(start, min(start + _PIECE, length))


def _digits(bits: int) -> list[tuple[int, int]]:
    """Return where the digits of a width begin, and their own widths.

    >>> [_digits(bits) for bits in (32, 28, 12)]
    [[(0, 32)], [(0, 16), (16, 8), (24, 4)], [(0, 8), (8, 4)]]
    """
    found, low = [], 0
    for width in (32, 16, 8, 4):
        if bits - low >= width:
            found.append((low, width))
            low += width
    return found
