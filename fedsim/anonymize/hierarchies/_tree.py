"""A tree over ordered leaves: what a value may be generalized to, and what that covers.

The domain is public: it comes from the schema, never from records, so that neither the hierarchy
nor what is encoded by it says anything of anybody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hierarchy", "from_paths", "with_missing"]

MISSING = "missing"  # the label of the leaf that stands for an empty cell


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Levels of ever coarser groups of leaves; every group is a run of neighbouring leaves.

    `levels[j]` int32 [leaves]: the group of each leaf at level j, numbered from 0 from the first
    leaf on; level 0 has a group per leaf, the last level one for all. `labels[j]`: the groups'
    names. `positions` float64 [leaves]: where leaves lie on a line (midpoints of intervals, days),
    None where they are categories, whose order is the tree's alone. `has_missing`: the last leaf
    stands for empty cells. Raises `ValueError` for levels that do not nest.
    """

    levels: tuple[NDArray[np.int32], ...]
    labels: tuple[tuple[str, ...], ...]
    positions: NDArray[np.float64] | None = None
    has_missing: bool = False

    def __post_init__(self) -> None:
        """Check that levels nest, from single leaves to one group of all."""
        if self.levels[0].tolist() != list(range(self.leaves)):
            raise ValueError("level 0 of a hierarchy has a group for each leaf, in order")
        if self.levels[-1].any():
            raise ValueError("the last level of a hierarchy has one group, of all leaves")
        for j, (fine, coarse) in enumerate(pairwise(self.levels)):
            steps = np.diff(coarse)
            if coarse[0] != 0 or ((steps != 0) & (steps != 1)).any():
                raise ValueError(f"the groups of level {j + 1} are not runs of neighbouring leaves")
            if ((np.diff(fine) == 0) & (steps != 0)).any():
                raise ValueError(f"a group of level {j} is in two groups of level {j + 1}")
        for groups, names in zip(self.levels, self.labels, strict=True):
            if len(names) != groups[-1] + 1:
                raise ValueError(f"{len(names)} names for {groups[-1] + 1} groups")

    @property
    def leaves(self) -> int:
        """Return the number of leaves."""
        return len(self.levels[0])

    @property
    def height(self) -> int:
        """Return the number of levels above the leaves."""
        return len(self.levels) - 1

    @property
    def is_ordered(self) -> bool:
        """Say whether leaves lie on a line."""
        return self.positions is not None

    @cached_property
    def starts(self) -> tuple[NDArray[np.int32], ...]:
        """Return int32 [groups + 1] of each level: group g has leaves starts[g]:starts[g + 1]."""
        found = []
        for groups in self.levels:
            first = np.flatnonzero(np.diff(groups, prepend=-1))
            found.append(np.append(first, self.leaves).astype(np.int32))
        return tuple(found)

    @cached_property
    def bounds(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return int32 [levels, leaves] twice: where each leaf's group begins and ends."""
        pairs = list(zip(self.levels, self.starts, strict=True))
        low = np.stack([starts[groups] for groups, starts in pairs])
        return low, np.stack([starts[groups + 1] for groups, starts in pairs])

    def label(self, low: int, high: int) -> str:
        """Name the leaves from `low` up to `high` (not included): a group's name, or a range.

        A run of categories that is no group is named by its leaves: {a, b}.
        """
        for groups, starts, names in zip(self.levels, self.starts, self.labels, strict=True):
            group = int(groups[low])
            if starts[group] == low and starts[group + 1] == high:
                return names[group]
        if self.is_ordered and not (self.has_missing and high == self.leaves):
            return f"{_first(self.labels[0][low])}-{_last(self.labels[0][high - 1])}"
        return "{" + ", ".join(self.labels[0][low:high]) + "}"


def from_paths(paths: Sequence[Sequence[str]]) -> tuple[Hierarchy, tuple[str, ...]]:
    """Return the hierarchy of leaves' paths to the root, and the leaves in its order.

    `paths[i]`: a leaf, what it is generalized to first, and so on; all are equally long and end in
    the same root. Leaves keep the given order within their groups, and groups that of their first
    leaf. Raises `ValueError` for a leaf that is there twice and for a group in two groups.
    """
    _check_paths(paths)
    rank: dict[tuple[int, str], int] = {}
    for path in paths:
        for level, name in enumerate(path):
            rank.setdefault((level, name), len(rank))
    height = len(paths[0]) - 1
    ordered = sorted(
        paths, key=lambda path: [rank[level, path[level]] for level in range(height, -1, -1)]
    )
    levels, labels = [], []
    for level in range(height + 1):
        column = [path[level] for path in ordered]
        names = list(dict.fromkeys(column))
        index = {name: i for i, name in enumerate(names)}
        levels.append(np.array([index[name] for name in column], dtype=np.int32))
        labels.append(tuple(names))
    return Hierarchy(tuple(levels), tuple(labels)), tuple(path[0] for path in ordered)


def with_missing(tree: Hierarchy) -> Hierarchy:
    """Return a hierarchy with one more leaf, for empty cells; only the root has it among others."""
    levels, labels = [], []
    for groups, names in zip(tree.levels, tree.labels, strict=True):
        is_root = groups is tree.levels[-1]
        levels.append(np.append(groups, 0 if is_root else groups[-1] + 1).astype(np.int32))
        labels.append(names if is_root else (*names, MISSING))
    if len(levels) == 1:  # the only leaf was the root
        levels = [np.array([0, 1], dtype=np.int32), np.zeros(2, dtype=np.int32)]
        labels = [(*tree.labels[0], MISSING), ("*",)]
    positions = tree.positions
    if positions is not None:
        positions = np.append(positions, np.nan)
    return Hierarchy(tuple(levels), tuple(labels), positions, has_missing=True)


def _check_paths(paths: Sequence[Sequence[str]]) -> None:
    if not paths:
        raise ValueError("there is no leaf")
    parents: dict[tuple[int, str], str] = {}
    leaves = set()
    for path in paths:
        if len(path) != len(paths[0]):
            raise ValueError(
                f"{path[0]!r} has {len(path)} levels, {paths[0][0]!r} has {len(paths[0])}"
            )
        if path[0] in leaves:
            raise ValueError(f"{path[0]!r} is there twice")
        leaves.add(path[0])
        for level, (name, parent) in enumerate(pairwise(path)):
            if parents.setdefault((level, name), parent) != parent:
                raise ValueError(
                    f"{name!r} of level {level} is in {parents[level, name]!r} and in {parent!r}"
                )
    roots = {path[-1] for path in paths}
    if len(roots) > 1:
        raise ValueError(f"the last level has {len(roots)} groups ({', '.join(sorted(roots)[:5])})")


def _first(label: str) -> str:
    return label.split("..", 1)[0]


def _last(label: str) -> str:
    return label.rsplit("..", 1)[-1]
