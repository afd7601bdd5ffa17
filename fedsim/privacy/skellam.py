"""Skellam noise, sampled exactly: integers all the way, no floating-point number in the law.

Skellam(variance) is the difference of two Poisson numbers of half the variance each: P(k) =
exp(-variance) I_k(variance). The sum of independent Skellam numbers is one again, of the summed
variance, so what clients add by themselves is, in their sum, exactly what is accounted: Agarwal,
Kairouz and Liu, "The Skellam mechanism for differentially private federated learning", NeurIPS
2021.

The law is made once per variance, by Miller's backward recurrence (DLMF 3.6(v) and 10.29.1: all
terms positive, so rounding errors do not grow) on integers of some 400 bits. What is rounded and
cut off adds up to a statistical distance below 2^-104 per number: 10^9 of them in each of 10^6
rounds change delta by less than 10^-16.
"""

import math
from fractions import Fraction
from functools import lru_cache

from torch import Tensor

from fedsim.privacy import _alias
from fedsim.privacy.noise import Stream

__all__ = ["LARGEST_VARIANCE", "quantized", "skellam"]

#: A wider law would need a table that no processor's cache holds.
LARGEST_VARIANCE = 2**30
_LEAST_VARIANCE = Fraction(1, 2**20)

_NATS = 160.0  # the recurrence begins where a number is less likely than exp(-160)


def quantized(variance: float) -> Fraction:
    """Return the variance as `skellam` takes it: a multiple of 2^-20, rounded up.

    >>> quantized(0.1) * 2**20
    Fraction(104858, 1)
    """
    return Fraction(math.ceil(Fraction(variance) * 2**20), 2**20)


def skellam(variance: Fraction | int, count: int, stream: Stream) -> Tensor:
    """Return `count` Skellam numbers of a variance: int64.

    The first call for a variance makes a table, which takes up to three seconds. Raises
    `ValueError` unless the variance is a multiple of 2^-20 and at most 2^30.
    """
    wanted = Fraction(variance)
    if not _LEAST_VARIANCE <= wanted <= LARGEST_VARIANCE or (wanted * 2**20).denominator != 1:
        raise ValueError(
            f"variance {variance} of Skellam noise is not a positive multiple of 2^-20 up to 2^30"
        )
    return _alias.draw(_table(wanted), count, stream)


@lru_cache(maxsize=4)
def _table(variance: Fraction) -> _alias.Table:
    return _alias.table_of(_weights(variance))


def _weights(variance: Fraction) -> list[int]:
    """Return the probabilities of absolute values 0, 1, ... as integers that add up to 2^126."""
    a, b = variance.as_integer_ratio()
    before, now = 0, 2**192
    found = [now]
    for k in range(_start(float(variance)), 0, -1):  # I_(k-1) = I_(k+1) + (2 k / variance) I_k
        before, now = now, before + 2 * k * b * now // a
        found.append(now)
    found.reverse()
    return _alias.normalized(found)


def _start(variance: float) -> int:
    """Return where a Skellam number is less likely than exp(-160), by Chernoff's bound."""
    low, high = 0, 1
    while _exponent(high, variance) < _NATS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _exponent(middle, variance) < _NATS else (low, middle)
    return high


def _exponent(k: int, variance: float) -> float:
    """Return Chernoff's exponent, k asinh(k / v) - sqrt(k^2 + v^2) + v."""
    root = k * k / (math.hypot(k, variance) + variance)  # without the cancellation
    return k * math.asinh(k / variance) - root
