"""FF1: encryption that keeps the format, NIST SP 800-38G (2016), algorithms 7 and 8.

A Feistel network of ten rounds over numeral strings. All rows of an array of equal length are done
together: halves are 64-bit integers where radix^(length / 2) < 2^55, Python's own above. A domain
of fewer than 10^6 strings is refused, as revision 1 of the standard (draft of 2019, section 5.1)
asks for: the attacks of Durak and Vaudenay (CRYPTO 2017) and of Hoang, Tessaro and Trieu (CRYPTO
2018) are against small ones.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.crypto import encrypt_blocks

__all__ = ["FF1", "LEAST_DOMAIN"]

LEAST_DOMAIN = 1_000_000

_ROUNDS = 10
_MOST_RADIX = 2**16
_MOST_LENGTH = 2**16  # of a string: the standard allows 2^32, no cell has
_NARROW = 2**55  # below it, a remainder and a byte fit into 63 bits

_Numerals = NDArray[np.int64]
_Bytes = NDArray[np.uint8]
_Halves = NDArray[Any]  # int64, or Python's integers as objects


@dataclass(frozen=True, slots=True)
class FF1:
    """FF1 under an AES key of 16, 24 or 32 bytes, over strings of numerals below `radix`.

    Raises `ValueError` for a radix that is not 2 to 65536.

    >>> cipher = FF1(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), 10)
    >>> cipher.encrypt(np.arange(10)[np.newaxis], b"").tolist()
    [[2, 4, 3, 3, 4, 7, 7, 4, 8, 4]]
    """

    key: bytes = field(repr=False)
    radix: int

    def __post_init__(self) -> None:
        """Check the radix; the key is checked where it is used."""
        if not 2 <= self.radix <= _MOST_RADIX:
            raise ValueError(f"radix {self.radix} is not 2 to {_MOST_RADIX}")

    def encrypt(self, numerals: _Numerals, tweak: bytes) -> _Numerals:
        """Encrypt strings [rows, length], each by itself. Raises `ValueError`: see `_check`."""
        self._check(numerals)
        rounds = _Rounds(self.key, self.radix, numerals.shape[1], tweak)
        u = rounds.length // 2
        a, b = rounds.number(numerals[:, :u]), rounds.number(numerals[:, u:])
        for i in range(_ROUNDS):
            a, b = b, (a + rounds.mask(i, b)) % rounds.modulus(i)
        return np.hstack([rounds.string(a, u), rounds.string(b, rounds.length - u)])

    def decrypt(self, numerals: _Numerals, tweak: bytes) -> _Numerals:
        """Undo `encrypt`. Raises `ValueError`: see `_check`."""
        self._check(numerals)
        rounds = _Rounds(self.key, self.radix, numerals.shape[1], tweak)
        u = rounds.length // 2
        a, b = rounds.number(numerals[:, :u]), rounds.number(numerals[:, u:])
        for i in reversed(range(_ROUNDS)):
            a, b = (b - rounds.mask(i, a)) % rounds.modulus(i), a
        return np.hstack([rounds.string(a, u), rounds.string(b, rounds.length - u)])

    def _check(self, numerals: _Numerals) -> None:
        """Raise `ValueError` for numerals out of range, and for lengths with a small domain."""
        length = numerals.shape[1]
        if not 2 <= length <= _MOST_LENGTH or self.radix**length < LEAST_DOMAIN:
            raise ValueError(
                f"strings of {length} numerals of radix {self.radix}: at least 2 and at most "
                f"{_MOST_LENGTH}, and {LEAST_DOMAIN:,} different ones, are needed"
            )
        if numerals.size and not (numerals.min() >= 0 and numerals.max() < self.radix):
            raise ValueError(f"a numeral is not 0 to {self.radix - 1}")


class _Rounds:
    """What the rounds of strings of one length and tweak have in common: steps 1 to 5."""

    def __init__(self, key: bytes, radix: int, length: int, tweak: bytes) -> None:
        u, v = length // 2, length - length // 2
        bits = (radix**v - 1).bit_length()  # ceil(v log2 radix), in integers
        self.key, self.radix, self.length = key, radix, length
        self.moduli: tuple[int, int] = (radix**u, radix**v)
        self.half_bytes = -(-bits // 8)
        self.mask_bytes = 4 * -(-self.half_bytes // 4) + 4
        self.is_narrow = radix**v < _NARROW
        first = bytes([1, 2, 1]) + radix.to_bytes(3, "big") + bytes([10, u % 256])
        first += length.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
        fixed = first + tweak + bytes(-(len(tweak) + self.half_bytes + 1) % 16)
        # Blocks before the one with the round's number are the same for all rows and rounds.
        whole = len(fixed) - len(fixed) % 16
        state = np.zeros((1, 16), dtype=np.uint8)
        for block in np.frombuffer(fixed[:whole], dtype=np.uint8).reshape(-1, 1, 16):
            state = self._cipher(state ^ block)
        self.state, self.rest = state, np.frombuffer(fixed[whole:], dtype=np.uint8)

    def modulus(self, i: int) -> int:
        """Return radix^m of round i: step 6.v."""
        return self.moduli[i % 2]

    def mask(self, i: int, half: _Halves) -> _Halves:
        """Return y mod radix^m of round i: steps 6.i to 6.iv, and the reduction of 6.vi."""
        rows, begin = len(half), len(self.rest)
        q = np.empty((rows, begin + 1 + self.half_bytes), dtype=np.uint8)
        q[:, :begin], q[:, begin] = self.rest, i
        q[:, begin + 1 :] = self._to_bytes(half)
        state = self.state
        for start in range(0, q.shape[1], 16):
            state = self._cipher(state ^ q[:, start : start + 16])
        parts = [state]
        for j in range(1, -(-self.mask_bytes // 16)):
            count = np.frombuffer(j.to_bytes(16, "big"), dtype=np.uint8)
            parts.append(self._cipher(state ^ count))
        return self._reduced(np.hstack(parts)[:, : self.mask_bytes], self.modulus(i))

    def number(self, numerals: _Numerals) -> _Halves:
        """Return NUM_radix of each row."""
        found: _Halves = np.zeros(len(numerals), dtype=np.int64 if self.is_narrow else object)
        for column in numerals.T:
            found = found * self.radix + (column if self.is_narrow else column.astype(object))
        return found

    def string(self, numbers: _Halves, length: int) -> _Numerals:
        """Return STR_radix of each number."""
        found = np.empty((len(numbers), length), dtype=np.int64)
        for position in reversed(range(length)):
            found[:, position] = numbers % self.radix
            numbers = numbers // self.radix
        return found

    def _to_bytes(self, half: _Halves) -> _Bytes:
        if self.is_narrow:
            wide = half.astype(">u8")[:, np.newaxis].view(np.uint8)
            return wide[:, 8 - self.half_bytes :]
        content = b"".join(int(number).to_bytes(self.half_bytes, "big") for number in half)
        return np.frombuffer(content, dtype=np.uint8).reshape(len(half), self.half_bytes)

    def _reduced(self, content: _Bytes, modulus: int) -> _Halves:
        """Return the remainders of big-endian numbers [rows, bytes], by pieces that still fit."""
        if not self.is_narrow:
            found = np.empty(len(content), dtype=object)
            found[:] = [int.from_bytes(row.tobytes(), "big") % modulus for row in content]
            return found
        size = 4 if modulus < 2**31 else 2 if modulus < 2**47 else 1  # of a piece
        pieces = np.ascontiguousarray(content).view(f">u{size}")
        remainder = np.zeros(len(content), dtype=np.int64)
        for piece in pieces.T:
            remainder = (remainder * 2 ** (8 * size) + piece.astype(np.int64)) % modulus
        return remainder

    def _cipher(self, blocks: _Bytes) -> _Bytes:
        made = encrypt_blocks(self.key, blocks.tobytes())
        return np.frombuffer(made, dtype=np.uint8).reshape(-1, 16)
