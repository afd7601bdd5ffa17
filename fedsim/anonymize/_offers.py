"""What cutting along one quasi-identifier would win, for every group at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.protection import Protection, Target, allows

__all__ = ["Histogram", "Offer", "by_children", "by_threshold", "common", "firsts", "node_at"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# What a row that is set aside is expected to lose, in quasi-identifiers generalized to the root:
# rows that are alone in k alone find company soon, those that l or t parted do not. Measured on
# Adult, where 0.3 to 1 and 1 to 2 do about equally well.
_ASIDE_LOSS = 0.6
_ASIDE_LOSS_OF_VALUES = 1.5
_NOTHING = 1e-9  # spared: what differences of equal losses come to in floating point


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many rows of each group have each leaf of one quasi-identifier: what is not 0.

    Entries ascend by `group`, then `leaf`; `counts` int64 [entries]; `values[i]` int64 [entries,
    values]: the same rows by the i-th sensitive column, where a protection is about values.
    """

    group: Ints
    leaf: Ints
    counts: Ints
    values: tuple[Ints, ...] = ()


@dataclass(frozen=True, eq=False)
class Offer:
    """`wins` float64 [groups]: loss that is spared, -inf where no cut is allowed.

    `pieces(which)`: of those groups, as (group, low, part): leaves from low on are of that part,
    -1 where they are set aside.
    """

    wins: Floats
    pieces: Callable[[Bools], tuple[Ints, Ints, Ints]]


def by_threshold(
    histogram: Histogram,
    tree: Hierarchy,
    protection: Protection,
    of: Sequence[Target],
    *,
    may_set_aside: bool,
) -> Offer:
    """Offer to cut each group's leaves in two, where that wins most."""
    first, last, sizes = _bounds(histogram)
    group, leaf = histogram.group, histogram.leaf
    entry = np.arange(len(group))
    left = _running(histogram.counts, first)
    right = sizes[group] - left
    left_is_fine, right_is_fine = _fine_halves(histogram, left, right, protection, of)
    is_cut = left_is_fine | right_is_fine if may_set_aside else left_is_fine & right_is_fine
    place = _places(histogram, tree, first)
    after = place[np.minimum(entry + 1, len(entry) - 1)]
    lost = left * (place - place[first][group]) + right * (place[last][group] - after)
    spared = (place[last] - place[first])[group] * sizes[group] - lost
    aside = np.where(left_is_fine, 0, left) + np.where(right_is_fine, 0, right)
    spared = spared / max(tree.leaves - 1, 1) - aside * _aside_loss(protection)
    best, at = _first_best(np.where(is_cut & (spared > _NOTHING), spared, -np.inf), first)
    at = np.minimum(at, len(leaf) - 1)
    low = leaf[np.minimum(at + 1, len(leaf) - 1)]
    parts = np.stack([np.where(left_is_fine, 0, -1)[at], np.where(right_is_fine, 1, -1)[at]], 1)

    def pieces(which: Bools) -> tuple[Ints, Ints, Ints]:
        groups = np.flatnonzero(which)
        lows = np.stack([np.zeros_like(groups), low[groups]], axis=1).reshape(-1)
        return np.repeat(groups, 2), lows, parts[groups].reshape(-1)

    return Offer(best, pieces)


def _fine_halves(
    histogram: Histogram,
    left: Ints,
    right: Ints,
    protection: Protection,
    of: Sequence[Target],
) -> tuple[Bools, Bools]:
    """Say of cuts behind each entry which half is allowed; neither, where one would be empty."""
    if not protection.is_about_values:
        return (left >= protection.k) & (right > 0), right >= protection.k
    first, last, _ = _bounds(histogram)
    left_is_fine = np.zeros(len(left), dtype=bool)
    right_is_fine = left_is_fine.copy()
    sums = [_running(values, first) for values in histogram.values]
    enough = np.flatnonzero((left >= protection.k) & (right > 0))
    left_is_fine[enough] = allows(protection, left[enough], [one[enough] for one in sums], of)
    enough = np.flatnonzero(right >= protection.k)
    after = [one[last][histogram.group[enough]] - one[enough] for one in sums]
    right_is_fine[enough] = allows(protection, right[enough], after, of)
    return left_is_fine, right_is_fine


def by_children(
    histogram: Histogram,
    tree: Hierarchy,
    protection: Protection,
    of: Sequence[Target],
    *,
    may_set_aside: bool,
) -> Offer:
    """Offer to replace each group's value by its children, as far as the protection allows."""
    children = _children(histogram, tree)
    fine = allows(protection, children.sizes, children.values, of)
    kept = _given_back(children, fine, protection, of)
    offers = [_Split(children, kept, tree, protection, of, may_set_aside=False)]
    if may_set_aside:
        offers.append(_Split(children, fine, tree, protection, of, may_set_aside=True))
    wins = np.stack([offer.wins for offer in offers])
    which_offer = wins.argmax(axis=0)

    def pieces(which: Bools) -> tuple[Ints, Ints, Ints]:
        found = [offer.pieces(which & (which_offer == i)) for i, offer in enumerate(offers)]
        return tuple(np.concatenate(each) for each in zip(*found, strict=True))  # type: ignore[return-value]

    return Offer(wins.max(axis=0), pieces)


@dataclass(frozen=True, eq=False)
class _Children:
    """Children of each group's value that have rows: ascending by group and leaf.

    `low` and `high`: leaves of the child, `high` not included. `loss` of it where it stands alone,
    down to the least group of the hierarchy with all its rows. `first_leaf`, `last_leaf`: of rows.
    """

    group: Ints
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    first_leaf: Ints
    last_leaf: Ints
    loss: Floats
    sizes: Ints
    values: tuple[Ints, ...]
    first: Ints  # of each group
    group_loss: Floats
    group_sizes: Ints


def _children(histogram: Histogram, tree: Hierarchy) -> _Children:
    first, last, sizes = _bounds(histogram)
    leaf, group = histogram.leaf, histogram.group
    level = common(tree, leaf[first], leaf[last])
    low, high = node_at(tree, level, leaf[first])
    group_loss = (high - low - 1) / max(tree.leaves - 1, 1)
    low, high = node_at(tree, np.maximum(level - 1, 0)[group], leaf)
    starts = firsts(group * tree.leaves + low)
    ends = np.append(starts[1:], len(group)) - 1
    loss = _loss(tree, leaf[starts], leaf[ends])
    return _Children(
        group=group[starts],
        low=low[starts],
        high=high[starts],
        first_leaf=leaf[starts],
        last_leaf=leaf[ends],
        loss=loss,
        sizes=np.add.reduceat(histogram.counts, starts),
        values=tuple(np.add.reduceat(values, starts, axis=0) for values in histogram.values),
        first=firsts(group[starts]),
        group_loss=group_loss,
        group_sizes=sizes,
    )


def _given_back(
    children: _Children, fine: Bools, protection: Protection, of: Sequence[Target]
) -> Bools:
    """Return which children are kept where the smallest go back until the rest is allowed."""
    # In this order the rest comes first, and what goes back next is always the next child.
    order = np.lexsort((children.low, children.sizes, fine, children.group))
    rest = _running(children.sizes[order], children.first)
    values = [_running(each[order], children.first) for each in children.values]
    enough = allows(protection, rest, values, of)
    place = np.arange(len(order)) - children.first[children.group]
    bad = np.add.reduceat((~fine).astype(np.int64), children.first)
    enough &= place >= bad[children.group] - 1
    stop = np.where(enough, np.arange(len(order)), len(order))
    last_back = np.minimum.reduceat(stop, children.first)
    last_back = np.where(bad == 0, children.first - 1, last_back)
    kept = np.empty(len(order), dtype=bool)
    kept[order] = np.arange(len(order)) > last_back[children.group]
    return kept


class _Split:
    """Some children on their own, the others as the rest."""

    def __init__(
        self,
        children: _Children,
        kept: Bools,
        tree: Hierarchy,
        protection: Protection,
        of: Sequence[Target],
        *,
        may_set_aside: bool,
    ) -> None:
        self.children, self.kept, self.tree = children, kept, tree
        first, loss = children.first, children.group_loss
        size = np.where(kept, 0, children.sizes)
        rest = np.add.reduceat(size, first)
        parts = np.add.reduceat(kept.astype(np.int64), first)
        spared = children.group_sizes * loss - np.add.reduceat(
            np.where(kept, children.sizes * children.loss, 0.0), first
        )
        self.aside = np.zeros(len(first), dtype=bool)
        if may_set_aside:
            values = [
                np.add.reduceat(np.where(kept[:, None], 0, each), first, axis=0)
                for each in children.values
            ]
            self.aside = (rest > 0) & ~allows(protection, rest, values, of)
        low = np.minimum.reduceat(np.where(kept, tree.leaves, children.first_leaf), first)
        high = np.maximum.reduceat(np.where(kept, -1, children.last_leaf), first)
        there = rest > 0
        rest_loss = np.zeros(len(first))
        rest_loss[there] = _loss(tree, low[there], high[there])
        penalty = rest_loss + _aside_loss(protection) * self.aside
        spared -= rest * penalty
        is_cut = (parts > 0) & (parts + there > 1) & (spared > _NOTHING)
        self.wins = np.where(is_cut, spared, -np.inf)

    def pieces(self, which: Bools) -> tuple[Ints, Ints, Ints]:
        children = self.children
        chosen = self.kept & which[children.group]
        group, low, high = children.group[chosen], children.low[chosen], children.high[chosen]
        groups = np.flatnonzero(which)
        # The rest is what lies before, between and after the children that are kept.
        rest = np.where(self._has_rest(which), 0, -1)
        rest_group = np.concatenate([groups, group])
        rest_low = np.concatenate([np.zeros_like(groups), high])
        all_group = np.concatenate([group, rest_group])
        all_low = np.concatenate([low, rest_low])
        part = np.concatenate([low + 1, rest[rest_group]])
        # A kept child that begins where another ends comes first, and is the one that stays.
        key = all_group * (self.tree.leaves + 1) + all_low
        _, at = np.unique(key, return_index=True)
        at = at[all_low[at] < self.tree.leaves]
        return all_group[at], all_low[at], part[at]

    def _has_rest(self, which: Bools) -> Bools:
        rest = np.add.reduceat((~self.kept).astype(np.int64), self.children.first) > 0
        found: Bools = rest & ~self.aside
        return found


def common(tree: Hierarchy, low: NDArray[np.integer], high: NDArray[np.integer]) -> Ints:
    """Return the lowest level at which two leaves are in the same group."""
    found = np.zeros(len(low), dtype=np.int64)
    for groups in tree.levels[:-1]:
        found += groups[low] != groups[high]
    return found


def node_at(
    tree: Hierarchy, level: NDArray[np.integer], leaf: NDArray[np.integer]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the leaves low:high of the groups that leaves are in at some levels."""
    low, high = tree.bounds
    return low[level, leaf], high[level, leaf]


def firsts(group: NDArray[np.integer]) -> Ints:
    """Return where each run of equal numbers begins."""
    is_first = np.empty(len(group), dtype=bool)
    is_first[:1] = True
    np.not_equal(group[1:], group[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def _loss(tree: Hierarchy, low: Ints, high: Ints) -> Floats:
    """Return NCP's term of the lowest groups with these leaves."""
    begin, end = node_at(tree, common(tree, low, high), low)
    found: Floats = (end - begin - 1) / max(tree.leaves - 1, 1)
    return found


def _bounds(histogram: Histogram) -> tuple[Ints, Ints, Ints]:
    """Return each group's first and last entry and its number of rows."""
    first = firsts(histogram.group)
    last = np.append(first[1:], len(histogram.group)) - 1
    return first, last, np.add.reduceat(histogram.counts, first)


def _places(histogram: Histogram, tree: Hierarchy, first: Ints) -> Ints:
    """Return places of entries such that b - a + 1 leaves are covered from entry a to entry b.

    A set of categories has those that are there; of numbers it is a range, and empty cells are
    one more value, next to it.
    """
    if not tree.is_ordered:
        return np.arange(len(histogram.leaf))
    place = histogram.leaf.copy()
    if tree.has_missing:
        missing = np.flatnonzero(place == tree.leaves - 1)
        missing = missing[~np.isin(missing, first)]
        place[missing] = place[missing - 1] + 1
    return place


def _running(counts: Ints, first: Ints) -> Ints:
    """Return sums up to each entry within its group."""
    sums: Ints = np.cumsum(counts, axis=0)
    before = np.zeros_like(sums[first])
    before[1:] = sums[first[1:] - 1]
    lengths = np.diff(np.append(first, len(counts)))
    running: Ints = sums - np.repeat(before, lengths, axis=0)
    return running


def _aside_loss(protection: Protection) -> float:
    return _ASIDE_LOSS_OF_VALUES if protection.is_about_values else _ASIDE_LOSS


def _first_best(score: Floats, first: Ints) -> tuple[Floats, Ints]:
    """Return each group's best score and its first entry that has it."""
    best = np.maximum.reduceat(score, first)
    lengths = np.diff(np.append(first, len(score)))
    entry = np.where(score == np.repeat(best, lengths), np.arange(len(score)), len(score))
    return best, np.minimum.reduceat(entry, first)
