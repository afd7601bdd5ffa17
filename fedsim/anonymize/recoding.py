"""What a recoding comes to: the class of each row, and the generalized values of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy

__all__ = ["Recoding", "Values", "distinct", "of_ranges"]


@dataclass(frozen=True, eq=False)
class Values:
    """The different generalized values of one quasi-identifier, each a set of leaves.

    Value v covers the leaves of runs offsets[v] to offsets[v + 1], a run being low[i]:high[i]; runs
    of one value ascend and do not touch. One run is a range or a group of the hierarchy.
    """

    offsets: NDArray[np.int64]
    low: NDArray[np.int32]
    high: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def covered(self) -> NDArray[np.int64]:
        """Return int64 [values]: how many leaves each covers."""
        sums = np.concatenate([[0], np.cumsum(self.high - self.low, dtype=np.int64)])
        found: NDArray[np.int64] = sums[self.offsets[1:]] - sums[self.offsets[:-1]]
        return found

    def loss(self, leaves: int) -> NDArray[np.float64]:
        """Return float64 [values]: (leaves covered - 1) / (leaves - 1), NCP's term for each."""
        return (self.covered - 1) / max(leaves - 1, 1)

    def mass(self, leaves: int) -> NDArray[np.float32]:
        """Return float32 [values, leaves]: each value's weight 1, spread evenly on its leaves."""
        found = np.zeros((len(self), leaves + 1), dtype=np.float32)
        value = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        np.add.at(found, (value, self.low), 1)
        np.add.at(found, (value, self.high), -1)
        inside = np.cumsum(found[:, :-1], axis=1)
        mass: NDArray[np.float32] = (inside / self.covered[:, None]).astype(np.float32)
        return mass

    def contain(self, which: NDArray[np.integer], codes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say of pairs whether the value `which[i]` covers the leaf `codes[i]`."""
        span = np.int64(self.high.max(initial=0)) + 1
        value = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        starts = value * span + self.low  # ascending
        run = np.searchsorted(starts, which * span + codes, side="right") - 1
        inside = (run >= 0) & (value[run] == which) & (codes >= self.low[run])
        found: NDArray[np.bool_] = inside & (codes < self.high[run])
        return found

    def labels(self, tree: Hierarchy) -> list[str]:
        """Name the values: what a reader of the released table sees."""
        found = []
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            runs = [(int(self.low[i]), int(self.high[i])) for i in range(start, stop)]
            if len(runs) == 1:
                found.append(tree.label(*runs[0]))
            elif tree.is_ordered:
                found.append("{" + ", ".join(tree.label(*run) for run in runs) + "}")
            else:
                names = [tree.labels[0][leaf] for low, high in runs for leaf in range(low, high)]
                found.append("{" + ", ".join(names) + "}")
        return found


@dataclass(frozen=True, eq=False)
class Recoding:
    """A table recoded: rows with equal generalized quasi-identifiers are a class.

    `class_of` int32 [rows]: the class of each row, -1 where it is suppressed. `index` int32
    [classes, quasi]: the generalized value of a class, into `values` of that quasi-identifier.
    """

    class_of: NDArray[np.int32]
    index: NDArray[np.int32]
    values: tuple[Values, ...]

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.index)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Return int64 [classes]: how many rows each class has."""
        kept = self.class_of[self.class_of >= 0]
        return np.bincount(kept, minlength=self.classes).astype(np.int64)

    @property
    def suppressed(self) -> int:
        """Return the number of rows that are suppressed."""
        return int((self.class_of < 0).sum())


def of_ranges(
    low: NDArray[np.integer], high: NDArray[np.integer]
) -> tuple[NDArray[np.int32], Values]:
    """Return (index, values) of ranges of leaves: int32 [n], and the different ones, ascending."""
    pairs = np.stack([low, high], axis=1).astype(np.int32)
    different, index = np.unique(pairs, axis=0, return_inverse=True)
    offsets = np.arange(len(different) + 1, dtype=np.int64)
    values = Values(offsets, different[:, 0].copy(), different[:, 1].copy())
    return index.reshape(-1).astype(np.int32), values


def distinct(sets: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int32], Values]:
    """Return (index, values) of sets of leaves, each ascending and not empty."""
    found: dict[tuple[bytes, bytes], int] = {}
    index = np.empty(len(sets), dtype=np.int32)
    for i, leaves in enumerate(sets):
        leaves = np.asarray(leaves, dtype=np.int32)
        breaks = np.flatnonzero(np.diff(leaves) > 1)
        low = leaves[np.append(0, breaks + 1)]
        high = leaves[np.append(breaks, len(leaves) - 1)] + np.int32(1)
        index[i] = found.setdefault((low.tobytes(), high.tobytes()), len(found))
    lows = [np.frombuffer(low, dtype=np.int32) for low, _ in found]
    highs = [np.frombuffer(high, dtype=np.int32) for _, high in found]
    offsets = np.concatenate([[0], np.cumsum([len(low) for low in lows])]).astype(np.int64)
    empty = [np.zeros(0, dtype=np.int32)]
    return index, Values(offsets, np.concatenate(lows or empty), np.concatenate(highs or empty))
