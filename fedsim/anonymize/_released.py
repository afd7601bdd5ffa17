"""The generalized values of classes: the least that covers the rows of each."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._offers import common, firsts, node_at
from fedsim.anonymize.cuts import Histogram
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.mondrian import tally
from fedsim.anonymize.recoding import Recoding, Values, of_ranges
from fedsim.anonymize.table import Encoded

__all__ = ["recoding_of", "values_of"]


def recoding_of(
    encoded: Encoded, class_of: NDArray[np.int64], how: Literal["sets", "nodes"]
) -> Recoding:
    """Return the recoding of rows in classes, -1 for suppressed ones.

    Classes are numbered anew, without those that have no row.
    """
    rows = np.flatnonzero(class_of >= 0)
    there, at = np.unique(class_of[rows], return_inverse=True)
    number = np.full(encoded.rows, -1, dtype=np.int32)
    number[rows] = at
    histograms = tally(encoded, rows, at.astype(np.int64), with_values=False)
    found = [
        values_of(histogram, tree, how)
        for histogram, tree in zip(histograms, encoded.trees, strict=True)
    ]
    index = np.stack([index for index, _ in found], axis=1).reshape(len(there), len(found))
    return Recoding(number, index.astype(np.int32), tuple(values for _, values in found))


def values_of(
    histogram: Histogram, tree: Hierarchy, how: Literal["sets", "nodes"]
) -> tuple[NDArray[np.int32], Values]:
    """Return (index, values) of one quasi-identifier for the classes of a histogram.

    "nodes": the lowest group of the hierarchy with all leaves that are there. "sets": those leaves,
    or, of numbers, the range of them.
    """
    first = firsts(histogram.group)
    if how == "nodes":
        last = np.append(first[1:], len(histogram.group)) - 1
        leaf = histogram.leaf[first]
        return of_ranges(*node_at(tree, common(tree, leaf, histogram.leaf[last]), leaf))
    leaf = histogram.leaf
    gap = np.diff(leaf, prepend=-2) > 1
    if tree.is_ordered:  # empty cells are no part of a range
        gap &= (leaf == tree.leaves - 1) & tree.has_missing
    begins = gap | (np.diff(histogram.group, prepend=-1) != 0)
    starts = np.flatnonzero(begins)
    low = leaf[starts].astype(np.int32)
    high = (leaf[np.append(starts[1:], len(leaf)) - 1] + 1).astype(np.int32)
    offsets = np.append(np.searchsorted(starts, first), len(starts))
    return _different(offsets, low, high)


def _different(
    offsets: NDArray[np.int64], low: NDArray[np.int32], high: NDArray[np.int32]
) -> tuple[NDArray[np.int32], Values]:
    """Return (index, values) of the different ones among sets of runs, in order of appearance."""
    runs = np.stack([low, high], axis=1)
    number: dict[bytes, int] = {}
    index = np.array(
        [
            number.setdefault(runs[start:stop].tobytes(), len(number))
            for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ],
        dtype=np.int32,
    )
    lengths = np.array([0, *(len(key) // 8 for key in number)], dtype=np.int64)
    kept = np.frombuffer(b"".join(number), dtype=np.int32).reshape(-1, 2)
    return index, Values(np.cumsum(lengths), kept[:, 0].copy(), kept[:, 1].copy())
