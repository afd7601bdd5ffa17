"""Univariate microaggregation: groups of k or more neighbouring numbers, each become its mean.

Hansen and Mukherjee, "A polynomial algorithm for optimal univariate microaggregation", IEEE TKDE
15(4), 2003: of all partitions into groups of k or more, one with the least sum of squared
deviations is a shortest path over the sorted numbers, whose steps are groups of k to 2k - 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._numbers import number_column, numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Microaggregation", "best_groups"]

_Floats = NDArray[np.float64]
_PIECE = 2**18  # deviations at a time


@dataclass(frozen=True, slots=True)
class Microaggregation:
    """Replace numbers by the `statistic` of their group of `k` or more.

    Needs the whole column. Missing cells are in no group. Equal numbers may come into different
    groups, then in the order of the rows; which numbers come out does not depend on it.
    """

    k: Annotated[int, Ge(2)]
    statistic: Literal["mean", "median"] = "mean"

    is_streaming: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("quasi", "sensitive", "insensitive")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the groups' numbers. Raises `DataError` for fewer than `k` numbers."""
        found = numbers(column, ctx)
        there = np.flatnonzero(~np.isnan(found))
        if 0 < len(there) < self.k:
            raise ctx.refused(f"microaggregation needs at least k = {self.k} numbers")
        order = there[np.argsort(found[there], kind="stable")]
        if len(order):
            ends = best_groups(found[order], self.k)
            sizes = np.diff(ends, prepend=0)
            found[order] = np.repeat(self._centres(found[order], ends - sizes, ends), sizes)
        return number_column(found, column, is_whole=False)

    def _centres(
        self, ordered: _Floats, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> _Floats:
        sizes = ends - starts
        if self.statistic == "median":
            low, high = ordered[starts + (sizes - 1) // 2], ordered[starts + sizes // 2]
            return np.asarray(low + (high - low) / 2)
        low = ordered[starts]
        means = low + np.add.reduceat(ordered - np.repeat(low, sizes), starts) / sizes
        return np.asarray(np.clip(means, low, ordered[ends - 1]))


def best_groups(ordered: _Floats, k: int) -> NDArray[np.int64]:
    """Return where the optimal groups of sorted numbers, at least k of them, end.

    >>> best_groups(np.array([1.0, 2.0, 3.0, 10.0, 11.0]), 2).tolist()
    [3, 5]
    """
    n = len(ordered)
    cost = np.full(n + 1, np.inf)  # of the first i numbers in groups
    cost[0] = 0.0
    before = np.zeros(n + 1, dtype=np.int64)
    piece = k * max(1, _PIECE // k**2)
    for low in range(k, n + 1, piece):
        high = min(low + piece, n + 1)
        deviations = _deviations(ordered, np.arange(low, high), k)
        # Groups that end at i begin at i - k or earlier: k ends need nothing of each other.
        for first in range(low, high, k):
            ends = np.arange(first, min(first + k, high))
            starts = ends[:, np.newaxis] - np.arange(k, 2 * k)
            total = cost[starts] + deviations[ends - low]  # inf for groups that begin before 0
            best = total.argmin(axis=1)
            rows = np.arange(len(ends))
            cost[ends], before[ends] = total[rows, best], starts[rows, best]
    found = [n]
    while before[found[-1]]:
        found.append(int(before[found[-1]]))
    return np.array(found[::-1])


def _deviations(ordered: _Floats, ends: NDArray[np.int64], k: int) -> _Floats:
    """Return sums of squared deviations of the groups of k to 2k - 1 numbers before each end.

    [ends, k]; infinity where there are not that many. Welford, Technometrics 4(3), 1962: sums of
    squares would lose what a small group differs by beside a large number.
    """
    found = np.full((len(ends), k), np.inf)
    mean, squares = np.zeros(len(ends)), np.zeros(len(ends))
    for size in range(1, 2 * k):
        number = ordered[np.maximum(ends - size, 0)]
        apart = number - mean
        mean += apart / size
        squares += apart * (number - mean)
        if size >= k:
            found[:, size - k] = np.where(ends >= size, squares, np.inf)
    return found
