"""Local recoding by cutting groups of rows again and again: trees of `cuts`, grown on rows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._offers import firsts
from fedsim.anonymize.cuts import ASIDE, Cuts, Histogram, choose, follow, joined
from fedsim.anonymize.protection import CELLS_AT_ONCE, Protection, Target
from fedsim.anonymize.table import Encoded

__all__ = ["grow", "tally"]

TREES = 4  # rows set aside by the first come into the second, and so on; the last sets none aside


def grow(
    encoded: Encoded,
    protection: Protection,
    of: Sequence[Target],
    how: Literal["sets", "nodes"] = "nodes",
) -> tuple[NDArray[np.int64], int]:
    """Return (class_of [rows], classes): what is left when no group can be cut any more.

    Classes of the last tree may lack what the protection asks for, where all of its rows do.
    """
    class_of = np.full(encoded.rows, -1, dtype=np.int64)
    classes, rows = 0, np.arange(encoded.rows)
    for tree in range(TREES):
        may_set_aside = tree < TREES - 1
        aside, at, groups = [], np.zeros(len(rows), dtype=np.int64), 1
        while len(rows):
            cuts = _cut(encoded, rows, at, groups, (protection, of, how, may_set_aside))
            closed = cuts.quasi < 0
            is_done = closed[at]
            number = classes + np.cumsum(closed) - 1
            class_of[rows[is_done]] = number[at[is_done]]
            classes += int(closed.sum())
            rows, at = rows[~is_done], at[~is_done]
            at = follow(cuts, encoded.codes[rows], at)
            aside.append(rows[at == ASIDE])
            rows, at, groups = rows[at >= 0], at[at >= 0], cuts.next_groups
        rows = np.concatenate(aside)
        if not len(rows):
            break
    return class_of, classes


def tally(
    encoded: Encoded, rows: NDArray[np.int64], at: NDArray[np.int64], *, with_values: bool
) -> list[Histogram]:
    """Return the histograms of groups of rows, of each quasi-identifier.

    `at` [len(rows)]: the group of each; `with_values`: by each sensitive column as well. Where
    leaves by values would be very many, leaves are counted together by groups of the hierarchy, as
    the first leaf of each.
    """
    sensitive = [(column.codes[rows], len(column.values)) for column in encoded.sensitive]
    found = []
    for column, tree in enumerate(encoded.trees):
        leaves = encoded.codes[rows, column]
        keys = at * tree.leaves + leaves
        if not with_values:
            different, counts = _counted(keys)
            found.append(Histogram(*np.divmod(different, tree.leaves), counts))
            continue
        most = max(2 * CELLS_AT_ONCE // sum(many for _, many in sensitive), int(at.max()) + 1)
        different, entry, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for low in tree.bounds[0][1:-1]:
            if len(different) <= most:
                break
            keys = at * tree.leaves + low[leaves]
            different, entry, counts = np.unique(keys, return_inverse=True, return_counts=True)
        values = []
        for codes, many in sensitive:
            cells = np.bincount(entry * many + codes, minlength=len(different) * many)
            values.append(cells.reshape(len(different), many))
        found.append(Histogram(*np.divmod(different, tree.leaves), counts, tuple(values)))
    return found


def _counted(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    most = int(keys.max(initial=0)) + 1
    if most <= 2 * len(keys):
        counts = np.bincount(keys, minlength=most)
        different = np.flatnonzero(counts)
        return different, counts[different]
    ascending = np.sort(keys)
    first = firsts(ascending)
    return ascending[first], np.diff(np.append(first, len(keys)))


def _cut(
    encoded: Encoded,
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
    groups: int,
    rule: tuple[Protection, Sequence[Target], Literal["sets", "nodes"], bool],
) -> Cuts:
    """Decide on all groups, in ranges of them where histograms by value would be large."""
    protection, of, how, may_set_aside = rule
    with_values = protection.is_about_values
    ranges = [(0, groups)]
    if with_values:
        entries = np.minimum(
            np.bincount(at, minlength=groups), max(tree.leaves for tree in encoded.trees)
        )
        cells = np.cumsum(entries * sum(len(each.values) for each in encoded.sensitive))
        edges = np.flatnonzero(np.diff(cells // CELLS_AT_ONCE, prepend=0)).tolist()
        ranges = list(zip([0, *edges], [*edges, groups], strict=True))
    found = []
    for low, high in ranges:
        if low == high:
            continue
        inside = slice(None) if len(ranges) == 1 else (at >= low) & (at < high)
        histograms = tally(encoded, rows[inside], at[inside] - low, with_values=with_values)
        found.append(
            choose(histograms, encoded.trees, protection, of, how=how, may_set_aside=may_set_aside)
        )
    return joined(found)
