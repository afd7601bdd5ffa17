"""Whole numbers as bits: of a fixed width, and by Elias's omega code; little-endian throughout."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.coding import Code
from fedsim.core import ClientContext

__all__ = [
    "SEED_BYTES",
    "Reader",
    "floats",
    "omega",
    "omega_lengths",
    "omega_values",
    "pack",
    "packed_bytes",
    "seed_of",
    "stream_of",
    "unpack",
]

SEED_BYTES = 8  # of a draw that whoever decodes makes again

_FLOAT = np.dtype("<f4")
_LONGEST = 64  # bits of an omega code of anything here


def pack(values: NDArray[np.integer], bits: int) -> Code:
    """Return numbers in [0, 2^bits) one after the other, `bits` each, filled up to bytes.

    >>> pack(np.array([1, 2, 3]), 2).tolist()
    [57]
    """
    places = np.arange(bits, dtype=np.uint32)
    digits = (values.astype(np.uint32)[:, None] >> places) & np.uint32(1)
    return np.packbits(digits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack(code: Code, bits: int, count: int) -> NDArray[np.int64]:
    """Undo `pack` for `count` numbers."""
    digits = np.unpackbits(code, count=bits * count, bitorder="little").reshape(count, bits)
    numbers: NDArray[np.int64] = digits.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))
    return numbers


def packed_bytes(bits: int, count: int) -> int:
    """Return how many bytes `pack` takes.

    >>> packed_bytes(3, 10)
    4
    """
    return -(-bits * count // 8)


def floats(numbers: NDArray[np.floating]) -> Code:
    """Return float32 numbers as their bytes."""
    return np.ascontiguousarray(numbers, dtype=_FLOAT).reshape(-1).view(np.uint8)


def seed_of(ctx: ClientContext, purpose: str) -> Code:
    """Draw a seed that travels."""
    return np.frombuffer(ctx.rng(purpose).bytes(SEED_BYTES), dtype=np.uint8)


def stream_of(seed: Code) -> np.random.Generator:
    """Return the stream of a seed."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed.tobytes(), "little")))


class Reader:
    """Reads a code from its beginning on; `end` raises `ValueError` where bytes are left over."""

    def __init__(self, code: Code) -> None:
        self._code, self._at = code, 0

    def take(self, count: int) -> Code:
        """Return the next bytes; raises `ValueError` where there are fewer."""
        if not 0 <= count <= len(self._code) - self._at:
            raise ValueError(f"the code ends {count - len(self._code) + self._at} bytes early")
        self._at += count
        return self._code[self._at - count : self._at]

    def floats(self, count: int) -> NDArray[np.float32]:
        """Return the next float32 numbers."""
        return np.frombuffer(self.take(4 * count).tobytes(), dtype=_FLOAT).astype(np.float32)

    def packed(self, bits: int, count: int) -> NDArray[np.int64]:
        """Return the next numbers of `pack`."""
        return unpack(self.take(packed_bytes(bits, count)), bits, count)

    def omega(self, count: int) -> NDArray[np.int64]:
        """Return the next numbers of `omega`."""
        values, used = omega_values(self._code[self._at :], count)
        self._at += used
        return values

    def end(self) -> None:
        """Raise `ValueError` unless all was read."""
        if self._at != len(self._code):
            raise ValueError(f"{len(self._code) - self._at} bytes too many")


def omega(values: NDArray[np.integer]) -> Code:
    """Return positive numbers in Elias's omega code, one after the other, filled up to bytes.

    Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inf. Theory
    21(2), 1975; the recursive code of QSGD (section 3.2): 1 is "0", 2 "100", 17 "10100100010".
    """
    known, places = np.unique(values, return_inverse=True)
    if len(known) and known[0] < 1:
        raise ValueError(f"{known[0]} has no omega code")
    words = [_word(int(value)) for value in known]
    lengths = np.array([len(word) for word in words], dtype=np.int64)[places]
    table = np.zeros((len(words), _LONGEST), dtype=np.uint8)
    for row, word in enumerate(words):
        table[row, : len(word)] = np.frombuffer(word.encode(), dtype=np.uint8) - ord("0")
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.packbits(table[np.repeat(places, lengths), within], bitorder="little")


@lru_cache(maxsize=4)
def omega_lengths(most: int) -> Tensor:
    """Return how many bits `omega` takes for each of 1 to `most`.

    >>> omega_lengths(4).tolist()
    [1, 3, 3, 6]
    """
    return torch.tensor([len(_word(value)) for value in range(1, most + 1)])


def omega_values(code: Code, count: int) -> tuple[NDArray[np.int64], int]:
    """Undo `omega` for `count` numbers; return them, and how many bytes they took.

    Raises `ValueError` for a code that ends early.
    """
    digits = np.unpackbits(code, bitorder="little") + ord("0")
    bits, values, at = digits.tobytes().decode(), [], 0
    for _ in range(count):
        value = 1
        while at < len(bits) and bits[at] == "1":
            group = bits[at : at + value + 1]
            if len(group) <= value or value >= _LONGEST:
                raise ValueError("no omega code")
            at, value = at + value + 1, int(group, 2)
        if at >= len(bits):
            raise ValueError("the code ends early")
        at += 1
        values.append(value)
    return np.array(values, dtype=np.int64), -(-at // 8)


@lru_cache(maxsize=2**16)
def _word(value: int) -> str:
    word = "0"
    while value > 1:
        group = f"{value:b}"
        word, value = group + word, len(group) - 1
    return word
