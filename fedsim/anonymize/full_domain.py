"""Full-domain generalization: every row at the same levels, the best of all there are.

Samarati, "Protecting respondents' identities in microdata release", IEEE TKDE 2001. The lattice of
levels is searched as by Kohlmayer et al. ("Flash", PASSAT 2012), along chains from the bottom up,
each halved; a node that leaves out too many rows for k takes all below it with it, since they leave
out more. What is minimized is GCP with suppressed cells at 1. It is never below the loss of the
node's levels over all rows, so that nodes whose levels lose as much as the best found are not
looked at. Both prunings are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.models import k_map
from fedsim.anonymize.protection import Protection, Target, allowed, allows
from fedsim.anonymize.recoding import Recoding, of_ranges
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, DataError, Problem

__all__ = ["full_domain"]

_MOST_NODES = 1_000_000


def full_domain(
    encoded: Encoded,
    protection: Protection,
    of: Sequence[Target],
    most: int,
    people: NDArray[np.integer] | None = None,
) -> Recoding:
    """Return the recoding with the least GCP among those that leave out at most `most` rows.

    Of equal ones the first by levels. Raises `DataError` where there is none, `ConfigError` for
    hierarchies with too many combinations of levels.
    """
    heights = [tree.height for tree in encoded.trees]
    many = int(np.prod([height + 1.0 for height in heights]))
    if many > _MOST_NODES:
        accepted = f"fewer levels: at most {_MOST_NODES:,} combinations of them; or nodes, or sets"
        raise ConfigError([Problem("recoding", f"full-domain over {many:,}", accepted)])
    table = _Table(encoded, protection, of, people)
    lattice = _Lattice(encoded, table, heights)
    best, best_loss = None, np.inf
    while (chain := lattice.chain(best_loss)) is not None:
        low, high = 0, len(chain)  # of the chain: the first that k allows is in low:high
        while low < high:
            node = chain[(low + high) // 2]
            left_out_by_k, left_out, loss = table.judge(lattice.levels[node], most)
            if left_out_by_k > most:
                lattice.drop_below(node)
                low = (low + high) // 2 + 1
                continue
            lattice.drop(node)
            better = (loss, node) < (best_loss, best if best is not None else node + 1)
            if left_out <= most and left_out < encoded.rows and better:
                best, best_loss = node, loss
            high = (low + high) // 2
    if best is None:
        raise DataError(
            f"no levels leave out at most {most} of {encoded.rows} rows: ask for less, or raise "
            "max_suppression"
        )
    return table.recoding(lattice.levels[best])


class _Lattice:
    """All combinations of levels, and which of them are still to be looked at."""

    def __init__(self, encoded: Encoded, table: "_Table", heights: Sequence[int]) -> None:
        grid = np.indices([height + 1 for height in heights], dtype=np.int8)
        self.levels = grid.reshape(len(heights), -1).T.copy()
        self.bound = np.zeros(len(self.levels))
        for column, losses in enumerate(table.losses):
            self.bound += losses[self.levels[:, column]]
        self.open = np.ones(len(self.levels), dtype=bool)
        self.order = np.lexsort((np.arange(len(self.bound)), self.bound))
        strides = np.cumprod([1, *(height + 1 for height in heights[:0:-1])])[::-1]
        self.strides, self.heights, self.at = strides, heights, 0

    def chain(self, best: float) -> list[int] | None:
        """Return open nodes, each above the one before, from the one with the least bound up."""
        while self.at < len(self.order) and not self.open[self.order[self.at]]:
            self.at += 1
        if self.at == len(self.order) or self.bound[self.order[self.at]] >= best:
            return None
        node = int(self.order[self.at])
        chain = [node]
        while True:
            above = [
                node + int(stride)
                for stride, level, height in zip(
                    self.strides, self.levels[node], self.heights, strict=True
                )
                if level < height
            ]
            above = [one for one in above if self.open[one] and self.bound[one] < best]
            if not above:
                return chain
            node = min(above, key=lambda one: (self.bound[one], one))
            chain.append(node)

    def drop(self, node: int) -> None:
        """Leave a node out of the search."""
        self.open[node] = False

    def drop_below(self, node: int) -> None:
        """Leave out a node and all with no level above its."""
        self.open &= ~(self.levels <= self.levels[node]).all(axis=1)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Different rows, [quasi, rows], how often each is there, and which one each row is."""

    codes: NDArray[np.int32]
    counts: NDArray[np.int64]
    of_row: NDArray[np.int64]


class _Table:
    """Rows as nodes of the lattice judge them: equal ones once."""

    def __init__(
        self,
        encoded: Encoded,
        protection: Protection,
        of: Sequence[Target],
        people: NDArray[np.integer] | None,
    ) -> None:
        self.encoded, self.protection, self.of, self.people = encoded, protection, of, people
        self.cells = _cells(encoded.codes)
        self.loss_of_leaf = []  # float64 [levels, leaves] of each quasi-identifier
        self.losses = []  # float64 [levels]: the mean over all rows
        for column, tree in enumerate(encoded.trees):
            sizes = [np.diff(first)[of] for of, first in zip(tree.levels, tree.starts, strict=True)]
            loss = (np.stack(sizes) - 1) / max(tree.leaves - 1, 1)
            share = np.bincount(encoded.codes[:, column], minlength=tree.leaves) / encoded.rows
            self.loss_of_leaf.append(loss)
            self.losses.append(loss @ share / len(encoded.trees))

    def judge(self, levels: NDArray[np.int8], most: int) -> tuple[int, int, float]:
        """Return rows that k leaves out, that the whole protection leaves out, and the GCP.

        Where k alone leaves out more than `most`, the others are not worked out.
        """
        class_of, sizes = self._classes(levels)
        by_k = int(sizes[sizes < self.protection.k].sum())
        if by_k > most:
            return by_k, by_k, np.inf
        fine = self._fine(levels, class_of, sizes)
        left_out = int(sizes[~fine].sum())
        loss = sum(float(self.losses[column][level]) for column, level in enumerate(levels))
        if left_out == 0:
            return by_k, 0, loss
        lost = np.flatnonzero(~fine[class_of])
        counts = self.cells.counts[lost]
        spared = sum(
            float(self.loss_of_leaf[c][level][self.cells.codes[c][lost]] @ counts)
            for c, level in enumerate(levels)
        )
        loss += (left_out - spared / len(levels)) / self.encoded.rows
        return by_k, left_out, loss

    def recoding(self, levels: NDArray[np.int8]) -> Recoding:
        """Return the recoding at these levels, without what is not allowed."""
        class_of, sizes = self._classes(levels)
        fine = self._fine(levels, class_of, sizes)
        number = np.where(fine, np.cumsum(fine) - 1, -1)
        return self._recoding(levels, number[class_of], int(fine.sum()))

    def _classes(self, levels: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the class of each different row, and the classes' sizes."""
        keys, span = np.zeros(len(self.cells.counts), dtype=np.int64), 1
        for column, (tree, level) in enumerate(zip(self.encoded.trees, levels, strict=True)):
            many = len(tree.labels[level])
            if span * many > 2**62:
                different, keys = np.unique(keys, return_inverse=True)
                span = len(different)
            if many > 1:
                keys = keys * many + tree.levels[level][self.cells.codes[column]]
                span *= many
        if span <= 4 * len(keys):
            there = np.bincount(keys, minlength=span) > 0
            keys = (np.cumsum(there) - 1)[keys]
        else:
            keys = np.unique(keys, return_inverse=True)[1]
        sizes = np.bincount(keys, weights=self.cells.counts).astype(np.int64)
        return keys, sizes

    def _fine(
        self, levels: NDArray[np.int8], class_of: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        if self.of:
            of_row = class_of[self.cells.of_row]
            fine = allowed(self.protection, of_row, len(sizes), self.encoded.sensitive, self.of)
        else:
            fine = allows(self.protection, sizes, (), ())
        if self.people is not None and self.protection.k_map is not None:
            recoding = self._recoding(levels, class_of, len(sizes))
            fine &= k_map.allows(k_map.fitting(recoding, self.people), self.protection.k_map)
        return fine

    def _recoding(
        self, levels: NDArray[np.int8], class_of: NDArray[np.int64], classes: int
    ) -> Recoding:
        kept = np.flatnonzero(class_of >= 0)
        member = np.zeros(classes, dtype=np.int64)
        member[class_of[kept]] = kept  # any row of the class has its values
        index, values = [], []
        for column, (tree, level) in enumerate(zip(self.encoded.trees, levels, strict=True)):
            group = tree.levels[level][self.cells.codes[column][member]]
            starts = tree.starts[level]
            which, different = of_ranges(starts[group], starts[group + 1])
            index.append(which)
            values.append(different)
        of_rows = class_of[self.cells.of_row].astype(np.int32)
        return Recoding(of_rows, np.stack(index, axis=1).reshape(classes, -1), tuple(values))


def _cells(codes: NDArray[np.int32]) -> _Cells:
    different, of_row, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return _Cells(different.T.copy(), counts.astype(np.int64), of_row.reshape(-1).astype(np.int64))
