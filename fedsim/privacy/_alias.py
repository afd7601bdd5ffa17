"""Symmetric laws on the integers as tables: one look-up for each number, and no rounding in it.

The alias method (Walker 1977; Vose 1991) on integers: the probabilities of absolute values are
exact multiples of 2^-126, and what is drawn follows them exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["TOTAL_BITS", "Table", "draw", "normalized", "table_of"]

TOTAL_BITS = 126  # all weights together

_LOW_BITS = 63  # of a threshold: looked at only where the upper bits are equal
_LOW = 2**_LOW_BITS - 1
_PIECE = 2**16  # numbers drawn at a time, so that the words stay in the cache

_Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The law of the absolute value: bucket i is i if below its threshold, else `other[i]`.

    Thresholds are of `TOTAL_BITS - bits` bits: the upper ones in `high`, the rest in `low`.
    """

    bits: int
    high: _Integers
    low: _Integers
    other: _Integers


def normalized(values: Sequence[int]) -> list[int]:
    """Return what absolute values weigh, 2^126 in all; `values` are of 0, 1, ... of one sign."""
    both = [values[0], *(2 * value for value in values[1:])]
    total = sum(both)
    weights = [(value << TOTAL_BITS) // total for value in both]
    while not weights[-1]:
        weights.pop()
    weights[weights.index(max(weights))] += 2**TOTAL_BITS - sum(weights)
    return weights


def table_of(weights: Sequence[int]) -> Table:
    """Return the table of weights that add up to 2^126."""
    bits = max(1, (len(weights) - 1).bit_length())
    left = [*weights, *[0] * (2**bits - len(weights))]
    full = 2 ** (TOTAL_BITS - bits)
    other = list(range(2**bits))
    small = [i for i, weight in enumerate(left) if weight < full]
    large = [i for i, weight in enumerate(left) if weight >= full]
    while small:  # all buckets together are full, so `large` lasts
        i, j = small.pop(), large[-1]
        other[i] = j
        left[j] -= full - left[i]
        if left[j] < full:
            small.append(large.pop())
    return Table(
        bits,
        np.array([weight >> _LOW_BITS for weight in left], np.int64),
        np.array([weight & _LOW for weight in left], np.int64),
        np.array(other, np.int64),
    )


def draw(table: Table, count: int, stream: Stream) -> Tensor:
    """Return `count` numbers, of either sign: int64."""
    drawn = torch.empty(count, dtype=torch.int64)
    target = drawn.numpy()
    for start in range(0, count, _PIECE):
        _fill(table, target[start : start + _PIECE], stream)
    return drawn


def _fill(table: Table, target: _Integers, stream: Stream) -> None:
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
