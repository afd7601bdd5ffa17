"""Skellam noise, sampled exactly: integers all the way, no floating-point number in the law.

Skellam(variance) is the difference of two Poisson numbers of half the variance each: P(k) =
exp(-variance) I_k(variance). The sum of independent Skellam numbers is one again, of the summed
variance, so what clients add by themselves is, in their sum, exactly what is accounted: Agarwal,
Kairouz and Liu, "The Skellam mechanism for differentially private federated learning", NeurIPS
2021.

The law is made once per variance, by Miller's backward recurrence (DLMF 3.6(v) and 10.29.1: all
terms positive, so rounding errors do not grow) on integers of some 300 bits. Numbers are then drawn
by the alias method (Walker 1977; Vose 1991) in one look-up each, with probabilities that are exact
multiples of 2^-126. What is rounded and cut off adds up to a statistical distance below 2^-104 per
number: 10^9 of them in each of 10^6 rounds change delta by less than 10^-16.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["LARGEST_VARIANCE", "quantized", "skellam"]

#: A wider law would need a table that no processor's cache holds.
LARGEST_VARIANCE = 2**30
_LEAST_VARIANCE = Fraction(1, 2**20)

_TOTAL_BITS = 126  # all weights together
_LOW_BITS = 63  # of a threshold: looked at only where the upper bits are equal
_LOW = 2**_LOW_BITS - 1
_NATS = 160.0  # the recurrence begins where a number is less likely than exp(-160)
_PIECE = 2**16  # numbers drawn at a time, so that the words stay in the cache

_Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The law of the absolute value: bucket i is i if below its threshold, else `other[i]`.

    Thresholds are of `_TOTAL_BITS - bits` bits: the upper ones in `high`, the rest in `low`.
    """

    bits: int
    high: _Integers
    low: _Integers
    other: _Integers


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
    table, drawn = _table(wanted), torch.empty(count, dtype=torch.int64)
    target = drawn.numpy()
    for start in range(0, count, _PIECE):
        own = target[start : start + _PIECE]
        _draw(table, own, stream)
    return drawn


def _draw(table: _Table, target: _Integers, stream: Stream) -> None:
    """Overwrite integers: of a word, the sign bit, a bucket, and the upper bits of a threshold."""
    words = stream.words(len(target)).numpy()
    width = _LOW_BITS - table.bits
    bucket = (words >> width) & (2**table.bits - 1)
    drawn, high = words & (2**width - 1), table.high[bucket]
    is_below = drawn < high
    for i in np.flatnonzero(drawn == high):  # one number in 2^45 or so
        is_below[i] = (int(stream.words(1)[0]) & _LOW) < table.low[bucket[i]]
    np.copyto(target, np.where(is_below, bucket, table.other[bucket]))
    np.negative(target, out=target, where=words < 0)


@lru_cache(maxsize=4)
def _table(variance: Fraction) -> _Table:
    weights = _weights(variance)
    bits = max(1, (len(weights) - 1).bit_length())
    weights += [0] * (2**bits - len(weights))
    full = 2 ** (_TOTAL_BITS - bits)
    other, is_small = list(range(2**bits)), [weight < full for weight in weights]
    small = [i for i, less in enumerate(is_small) if less]
    large = [i for i, less in enumerate(is_small) if not less]
    while small:  # the weights add up to 2^bits full buckets, so `large` lasts
        i, j = small.pop(), large[-1]
        other[i] = j
        weights[j] -= full - weights[i]
        if weights[j] < full:
            small.append(large.pop())
    return _Table(
        bits,
        np.array([weight >> _LOW_BITS for weight in weights], np.int64),
        np.array([weight & _LOW for weight in weights], np.int64),
        np.array(other, np.int64),
    )


def _weights(variance: Fraction) -> list[int]:
    """Return the probabilities of absolute values 0, 1, ... as integers that add up to 2^126."""
    a, b = variance.as_integer_ratio()
    before, now = 0, 2**192
    found = [now]
    for k in range(_start(float(variance)), 0, -1):  # I_(k-1) = I_(k+1) + (2 k / variance) I_k
        before, now = now, before + 2 * k * b * now // a
        found.append(now)
    found.reverse()
    found[1:] = [2 * weight for weight in found[1:]]  # of either sign
    total = sum(found)
    weights = [(weight << _TOTAL_BITS) // total for weight in found]
    while not weights[-1]:
        weights.pop()
    weights[weights.index(max(weights))] += 2**_TOTAL_BITS - sum(weights)
    return weights


def _start(variance: float) -> int:
    """Return where a Skellam number is less likely than exp(-160), by Chernoff's bound.

    The bound's exponent is k asinh(k / v) - sqrt(k^2 + v^2) + v.
    """
    low, high = 0, 1
    while _exponent(high, variance) < _NATS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _exponent(middle, variance) < _NATS else (low, middle)
    return high


def _exponent(k: int, variance: float) -> float:
    # sqrt(k^2 + v^2) - v, without the cancellation
    root = k * k / (math.hypot(k, variance) + variance)
    return k * math.asinh(k / variance) - root
