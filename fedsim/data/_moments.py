"""Means and deviations of columns of any length, exact whatever the order of the rows.

A floating-point sum depends on the order of its terms: the scale of a column would depend on how
rows are spread over files, and so would every model. Here sums are integers: a float64 is m 2^e
with |m| < 2^53, so it is an integer in units of the smallest number there is, and so is its square
once the rounding error of the product is known (Dekker, "A floating-point technique for extending
the available precision", Numer. Math. 18, 1971). Only the mean and the variance are rounded.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "Moments", "moments"]

#: The largest number whose square is no overflow, with room for Dekker's splitting.
LARGEST = 1e150
_UNIT_BITS = 1200  # sums are in units of 2^-1200, below the lowest bit of any float64
_HALF = 26
_SPLITTER = 2.0**27 + 1
_AT_ONCE = 1 << 20  # so many half mantissas of 27 bits stay exact in a float64 sum


@dataclass(frozen=True, slots=True)
class Moments:
    """How many numbers, their sum and the sum of their squares, both in units of 2^-1200."""

    count: int = 0
    first: int = 0
    second: int = 0

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.first + other.first, self.second + other.second
        )

    @property
    def mean(self) -> float:
        """Return the mean, 0 of nothing."""
        return float(Fraction(self.first, max(self.count, 1) << _UNIT_BITS))

    @property
    def deviation(self) -> float:
        """Return the deviation of the numbers themselves (divided by n), 0 of nothing."""
        n = max(self.count, 1)
        mean = Fraction(self.first, n << _UNIT_BITS)
        return sqrt(Fraction(self.second, n << _UNIT_BITS) - mean * mean)


def moments(values: NDArray[np.float64]) -> Moments:
    """Return the moments of finite numbers of at most `LARGEST`.

    >>> found = moments(np.array([1e16, 1.0, -1e16, 3.0]))
    >>> found.mean
    1.0
    """
    found = Moments()
    for start in range(0, len(values), _AT_ONCE):
        x = values[start : start + _AT_ONCE]
        square, error = _squares(x)
        found += Moments(len(x), _exact_sum(x), _exact_sum(square) + _exact_sum(error))
    return found


def _squares(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x * x as rounded, and what was rounded away (Dekker 1971, section 5)."""
    square = x * x
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    low = x - high
    return square, ((high * high - square) + 2 * high * low) + low * low


def _exact_sum(x: NDArray[np.float64]) -> int:
    """Return the sum in units of 2^-1200: mantissas are added up exponent by exponent."""
    fractions, exponents = np.frexp(x)
    mantissas = np.ldexp(fractions, 53).astype(np.int64)
    lowest = int(exponents.min(initial=0))
    place = exponents - lowest
    high = np.bincount(place, mantissas >> _HALF)
    low = np.bincount(place, mantissas & ((1 << _HALF) - 1))
    used = np.flatnonzero(np.bincount(place))
    parts = zip((used + lowest).tolist(), high[used].tolist(), low[used].tolist(), strict=True)
    return sum(
        ((int(top) << _HALF) + int(rest)) << (exponent - 53 + _UNIT_BITS)
        for exponent, top, rest in parts
    )
