"""Classes that lack what a protection asks for join others, where that loses least."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._offers import common, node_at
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.protection import Protection, Target, allows

__all__ = ["merge"]


def merge(
    low: NDArray[np.integer],
    high: NDArray[np.integer],
    counts: Sequence[NDArray[np.int64]],
    lacking: NDArray[np.bool_],
    trees: Sequence[Hierarchy],
    protection: Protection,
    of: Sequence[Target],
) -> NDArray[np.int64]:
    """Return which class each class joins, itself where none; each lacking one joins one other.

    `low`, `high` [classes, quasi]: first and last leaf of a class's rows. `counts`: sizes int64
    [classes], then int64 [classes, values] of each sensitive column. A class joins the one whose
    generalized values grow least, over the rows of both, among those that together are allowed, or
    among all if none is. What was joined is not looked at again: call it again for what lacks then.
    """
    low, high = low.copy(), high.copy()
    sizes, values = counts[0].copy(), [each.copy() for each in counts[1:]]
    joins = np.arange(len(sizes))
    lacks = lacking.copy()
    for one in np.flatnonzero(lacking):
        others = np.flatnonzero((joins == np.arange(len(joins))) & (np.arange(len(joins)) != one))
        if not lacks[one] or not len(others):
            continue
        least = np.minimum(low[others], low[one])
        most = np.maximum(high[others], high[one])
        loss = (sizes[others] + sizes[one]) * _loss(trees, least, most)
        loss -= sizes[others] * _loss(trees, low[others], high[others])
        together = [each[others] + each[one] for each in values]
        fine = allows(protection, sizes[others] + sizes[one], together, of)
        loss = np.where(fine, loss, loss + loss.max(initial=0) + 1) if fine.any() else loss
        best = int(loss.argmin())
        host = int(others[best])
        joins[joins == one] = host
        low[host], high[host] = least[best], most[best]
        sizes[host] += sizes[one]
        for each in values:
            each[host] += each[one]
        lacks[host] = False
    return joins


def _loss(
    trees: Sequence[Hierarchy], low: NDArray[np.integer], high: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the sum of NCP over quasi-identifiers for classes with these leaves."""
    found = np.zeros(len(low))
    for column, tree in enumerate(trees):
        level = common(tree, low[:, column], high[:, column])
        begin, end = node_at(tree, level, low[:, column].astype(np.int64))
        found += (end - begin - 1) / max(tree.leaves - 1, 1)
    return found
