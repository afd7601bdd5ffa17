"""One generalization for many tables: a tree of cuts, grown from sums of the tables' histograms.

`fedsim.anonymize.cuts` decides from histograms alone: how many rows of each group have each value
of each quasi-identifier. Histograms of several tables add, so whoever is given nothing but their
sums cuts as one who has all the rows does. `counts` is what a table adds to the sums of a level,
`grow` makes the cuts, and so on until no group is open: twice the binary logarithm of rows / 2k or
so, since parts are of unlike sizes, and as many again where rows are set aside.

Every part of a cut has k rows, or what else the protection asks for, in all tables together; sums
from 1 to k - 1 decide nothing but which values are there. Values that nobody has are left out of
what a class covers: a row that comes later and has one fits no class, and is suppressed.

The tree is public, plain data, and has no count in it. Domains and hierarchies come from the
schema, so the length of a vector tells no more than the tree does; of very large domains the leaves
of the tree are groups (`fedsim.anonymize._coarse`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize import cuts as cutting
from fedsim.anonymize._coarse import coarse, require_countable, widened
from fedsim.anonymize._shared_tree import (
    Cut,
    Entries,
    How,
    KOver,
    Level,
    cut_from_dict,
    descend,
    differs,
    extends,
    full,
    must_fit,
    nodes_of,
)
from fedsim.anonymize.cuts import ASIDE, Cuts, Histogram
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.mondrian import TREES
from fedsim.anonymize.protection import Protection, Target, allows
from fedsim.anonymize.protection import histogram as by_value
from fedsim.anonymize.recoding import Recoding, Values, distinct, of_ranges
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, DataError, Problem

__all__ = [
    "DEVIATIONS",
    "Cut",
    "How",
    "KOver",
    "assign",
    "central",
    "closed",
    "counts",
    "cut_from_dict",
    "differs",
    "extends",
    "grow",
    "kept_by",
    "length",
    "merged",
    "sensitivity",
    "start",
    "vetoes",
]

Integers = NDArray[np.int64]

#: Standard deviations of noise by which a part must have more rows than k, where noise was added:
#: a part that has fewer passes with a probability of 3.2e-5.
DEVIATIONS = 4.0


def start(
    encoded: Encoded,
    schema: str,
    protection: Protection,
    *,
    how: How = "sets",
    k_over: KOver = "federation",
    set_aside: bool = True,
    noise_multiplier: float = 0.0,
) -> Cut:
    """Return the cut that has not begun: one group, of the whole domain.

    Of `encoded` only what the schema says counts, no row; `schema` is its fingerprint. Where every
    table is to have k rows in each class or none (`k_over` "client"), groups are cut in two along
    the order of leaves, whatever `how` says of released values. `set_aside`: rows that are too few
    for a part of their own may be kept for a tree of their own, which loses less and takes more
    sums; never with "client" or noise. `noise_multiplier`: standard
    deviation of the noise that somebody will add to the sums / `sensitivity`: parts then have more
    than k rows by `DEVIATIONS` of what the noise on them comes to, and no value counts as nobody's.
    Raises `ConfigError` for what a shared cut cannot promise: k-map, sensitive columns without a
    hierarchy, of which each table would know other values, and noise on more than k alone.
    """
    problems = []
    if noise_multiplier and (protection.is_about_values or k_over == "client"):
        accepted = "0, or a protection of k alone, over the federation: noise hides the rest"
        problems.append(Problem("counts_noise_multiplier", noise_multiplier, accepted))
    if protection.k_map is not None:
        problems.append(Problem("k_map", protection.k_map, "unset, with a cut that is shared"))
    for column in encoded.sensitive if protection.is_about_values else ():
        if column.tree is None:
            accepted = "a hierarchy, such as categories: clients share declared values only"
            problems.append(Problem(f"columns.{column.name}.hierarchy", None, accepted))
    if protection.is_about_values and not encoded.sensitive:
        accepted = "at least one with role sensitive, or a protection of k alone"
        problems.append(Problem("columns", list(encoded.names), accepted))
    if problems:
        raise ConfigError(problems)
    values = [len(column.values) for column in encoded.sensitive if protection.is_about_values]
    require_countable(encoded, sum(values) or 1)
    encoded = coarse(encoded)
    leaves = tuple(tree.leaves for tree in encoded.trees)
    trees = TREES if set_aside and k_over == "federation" and not noise_multiplier else 1
    cut = Cut(schema, encoded.names, leaves, how, protection, k_over, trees, entries=full(leaves))
    return replace(cut, deviation=noise_multiplier * sensitivity(cut, encoded))


def length(cut: Cut, encoded: Encoded) -> int:
    """Return how many numbers a table adds to the sums of the open level."""
    values = _values(cut, encoded)
    if _wants_references(cut):
        return sum(values)
    entries = sum(len(own.leaf) for own in cut.entries)
    return entries * sum(values or (1,)) + vetoes(cut)


def vetoes(cut: Cut) -> int:
    """Return how many of those are vetoes: the last ones."""
    if cut.k_over != "client" or _wants_references(cut):
        return 0
    return sum(len(own.leaf) for own in cut.entries)


def sensitivity(cut: Cut, encoded: Encoded) -> float:
    """Return by how much, in L2, one record more or less moves the sums of a level.

    A record is in one group, and there in one bin of each quasi-identifier, for each sensitive
    column that counts: so many ones.
    """
    columns = max(1, len(_values(cut, encoded)))
    return float(np.sqrt(columns if _wants_references(cut) else len(cut.names) * columns))


def counts(cut: Cut, encoded: Encoded) -> Integers:
    """Return what a table adds to the sums of the open level: int64, by `length`.

    First a histogram for each quasi-identifier and each sensitive column that counts, over the
    groups that are open; then, where every table is to have k rows in each class or none, a veto
    for each place to cut that would leave this table with fewer: 1, else 0. Where sensitive values
    count, the first level of all is about them alone: what the protection compares with.
    """
    encoded = coarse(encoded)
    must_fit(cut, encoded)
    values = _values(cut, encoded)
    if _wants_references(cut):
        found = [
            np.bincount(column.codes, minlength=size)
            for column, size in zip(encoded.sensitive, values, strict=True)
        ]
        return np.concatenate(found).astype(np.int64)
    _, rows, at = descend(cut, encoded.codes)
    parts, against = [], []
    for j, own in enumerate(cut.entries):
        place, known = own.find(at, encoded.codes[rows, j])
        mine = _tally(place[known], rows[known], len(own.leaf), encoded, values)
        parts += [one.reshape(-1) for one in mine]
        if cut.k_over == "client":
            against.append(_vetoes(cut, encoded, own, mine))
    return np.concatenate([*parts, *against]).astype(np.int64)


def grow(cut: Cut, sums: Integers, encoded: Encoded) -> Cut:
    """Return the cut one level deeper, from the sums of all tables' `counts`.

    Of `encoded` only the trees count. Raises `DataError` for sums that no tables have, and where
    all rows in one class have not what the protection asks for.
    """
    if not cut.open:
        raise ValueError("grow: the cut is finished")
    encoded = coarse(encoded)
    if len(sums) != length(cut, encoded) or (not cut.deviation and (sums < 0).any()):
        raise DataError(f"these are no sums of level {cut.sums}: {len(sums)} numbers")
    if _wants_references(cut):
        return _with_references(cut, sums, encoded)
    histograms = _histograms(cut, sums, encoded)
    if not cut.deviation:
        if cut.tree and cut.open == 1 and not any(len(own.counts) for own in histograms):
            return replace(
                cut, open=0, entries=cut.covers[:0], sums=cut.sums + 1
            )  # none was set aside
        _must_agree(histograms, cut.open)
    of, protection = _targets(cut, encoded), _with_margin(cut)
    sizes, values = _groups(histograms[0], cut.open)
    if not cut.levels and not allows(protection, sizes, values, of).all():
        raise DataError(
            "all clients' rows in one class have not what the protection asks for (k = "
            f"{protection.k}{', with the margin for noise' if cut.deviation else ''})"
        )
    made = cutting.choose(
        histograms if cut.k_over == "federation" else _unparted(cut, sums, histograms),
        encoded.trees,
        protection,
        of,
        how="sets" if cut.k_over == "client" else cut.how,
        may_set_aside=cut.tree < cut.trees - 1,
    )
    closed = np.flatnonzero(made.quasi < 0)
    # Of noisy sizes only the last cut is known to have had its margin.
    refused = (
        closed[:0] if cut.deviation else closed[~allows(protection, sizes, values, of)[closed]]
    )
    return _deeper(cut, made, histograms, refused)


def closed(cut: Cut) -> Cut:
    """Return a cut that goes no further: the groups that are open become classes as they are.

    They have what the protection asks for since they were made. A group that nobody has counted,
    the first of a tree, has not shown it, and is refused. Raises `ValueError` for a cut without a
    level, which is none.
    """
    if not cut.levels:
        raise ValueError("closed: the cut has not begun")
    nothing = np.zeros(0, np.int64)
    made = Cuts(np.full(cut.open, -1, np.int64), nothing, nothing, nothing, 0)
    number = cut.classes + np.arange(cut.open)
    covers = [
        old.followed_by(Entries(number[own.group], own.leaf))
        for old, own in zip(cut.covers, cut.entries, strict=True)
    ]
    is_counted = any(level.tree == cut.tree for level in cut.levels)
    return replace(
        cut,
        levels=(*cut.levels, Level(cut.tree, made)),
        open=0,
        entries=tuple(Entries(nothing, nothing) for _ in cut.names),
        classes=cut.classes + cut.open,
        covers=tuple(covers),
        refused=cut.refused if is_counted else (*cut.refused, *number.tolist()),
    )


def central(cut: Cut, encoded: Encoded) -> Cut:
    """Return the finished cut of one table that has all the rows."""
    while cut.open:
        cut = grow(cut, counts(cut, encoded), encoded)
    return cut


def assign(cut: Cut, encoded: Encoded) -> Recoding:
    """Return a table's rows by the classes of a finished cut: those classes that it has.

    Rows that fit no class are suppressed. Raises `DataError` for a table of other columns.
    """
    groups = coarse(encoded)
    numbers, inverse = _numbered(_classes(cut, groups))
    covers = [own.of_groups(numbers) for own in cut.covers]
    return widened(_recoding(cut, groups.trees, inverse, covers), encoded)


def kept_by(cut: Cut, encoded: Encoded, *, is_late: bool) -> Recoding:
    """Return a table's rows by the classes of a cut, without those that could break what it asks.

    Where every table is to have k rows of a class, or none, a table that has fewer suppresses them:
    one that came late had no veto. Over the federation, rows of a late table only add to a class,
    so k holds; but they may be ill, all of them: where values are protected, a late table keeps
    classes in which its own rows have what is asked for. Then so has the class: two parts that are
    diverse, or near to a distribution, are so together (Machanavajjhala et al., TKDD 2007, section
    3; the earth mover's distance is convex).
    """
    groups = coarse(encoded)
    class_of = _classes(cut, groups)
    numbers, inverse = _numbered(class_of)
    must_hold_here = cut.k_over == "client"
    if must_hold_here or (is_late and cut.protection.is_about_values):
        of = _targets(cut, groups)
        kept = inverse >= 0
        sizes = np.bincount(inverse[kept], minlength=len(numbers)).astype(np.int64)
        if not must_hold_here:
            sizes = np.full(len(numbers), cut.protection.k)  # the others' rows are enough
        found = [
            by_value(inverse, column, len(numbers))
            for column, _ in zip(encoded.sensitive, of, strict=False)
        ]
        fine = allows(cut.protection, sizes, found, of)
        class_of[np.isin(class_of, numbers[~fine])] = -1
        numbers, inverse = _numbered(class_of)
    covers = [own.of_groups(numbers) for own in cut.covers]
    return widened(_recoding(cut, groups.trees, inverse, covers), encoded)


def merged(cut: Cut, encoded: Encoded) -> Recoding:
    """Return a table's rows by the classes of a cut, each with what the protection asks for here.

    Rows of classes that have too little go up to the group that their class was cut from, and on,
    until those that meet there are enough; above all, the smallest class goes with them. Raises
    `DataError` for a table that has not what the protection asks for even as one class.
    """
    groups = coarse(encoded)
    class_of = _classes(cut, groups)
    parent, node_of_class = nodes_of(cut)
    kept = np.flatnonzero(class_of >= 0)
    rows_of: dict[int, Integers] = {}
    for one in np.unique(class_of[kept]).tolist():
        rows_of[int(node_of_class[one])] = kept[class_of[kept] == one]
    of, columns = _targets(cut, encoded), encoded.sensitive

    def is_fine(rows: Integers) -> bool:
        found = [
            np.bincount(column.codes[rows], minlength=len(column.values))[None]
            for column, _ in zip(columns, of, strict=False)
        ]
        return bool(allows(cut.protection, np.array([len(rows)]), found, of)[0])

    for node in range(len(parent) - 1, 0, -1):  # children come after their parents
        rows = rows_of.get(node)
        if rows is not None and not is_fine(rows):
            above = rows_of.get(int(parent[node]), rows[:0])
            rows_of[int(parent[node])] = np.concatenate([above, rows_of.pop(node)])
    while 0 in rows_of and not is_fine(rows_of[0]):
        others = sorted((len(rows), node) for node, rows in rows_of.items() if node)
        if not others:
            k = cut.protection.k
            raise DataError(f"{len(kept)} rows fit the cut, and are no class (k = {k}) together")
        rows_of[0] = np.concatenate([rows_of[0], rows_of.pop(others[0][1])])
    nodes = np.array(sorted(rows_of), dtype=np.int64)
    inverse = np.full(encoded.rows, -1, dtype=np.int64)
    for number, node in enumerate(nodes.tolist()):
        inverse[rows_of[node]] = number
    recoding = _recoding(cut, groups.trees, inverse, _covers_of_nodes(cut, nodes))
    return widened(recoding, encoded)


def _wants_references(cut: Cut) -> bool:
    """Say whether the open level is the one about sensitive values alone."""
    return cut.protection.is_about_values and not cut.references


def _values(cut: Cut, encoded: Encoded) -> tuple[int, ...]:
    """Return how many values the sensitive columns have that count."""
    if not cut.protection.is_about_values:
        return ()
    return tuple(len(column.values) for column in encoded.sensitive)


def _targets(cut: Cut, encoded: Encoded) -> tuple[Target, ...]:
    if not cut.protection.is_about_values:
        return ()
    return tuple(
        Target(column.name, np.array(shares), column.distance, column.tree)
        for column, shares in zip(encoded.sensitive, cut.references, strict=True)
    )


def _with_references(cut: Cut, sums: Integers, encoded: Encoded) -> Cut:
    ends = np.cumsum(_values(cut, encoded))[:-1]
    found = [own / max(int(own.sum()), 1) for own in np.split(sums, ends)]
    return replace(cut, references=tuple(tuple(own.tolist()) for own in found), sums=1)


def _tally(
    place: Integers, rows: Integers, entries: int, encoded: Encoded, values: Sequence[int]
) -> list[Integers]:
    """Return histograms over entries, for each sensitive column that counts: [entries, values]."""
    if not values:
        return [np.bincount(place, minlength=entries)[:, None]]
    return [
        np.bincount(place * size + column.codes[rows], minlength=entries * size).reshape(-1, size)
        for column, size in zip(encoded.sensitive, values, strict=True)
    ]


def _vetoes(
    cut: Cut, encoded: Encoded, own: Entries, mine: Sequence[Integers]
) -> NDArray[np.bool_]:
    """Say behind which entries this table must not be cut: a part would have some, but too few."""
    of = _targets(cut, encoded)
    first = np.flatnonzero(np.diff(own.group, prepend=-1))
    last = np.append(first[1:], len(own.group)) - 1
    lefts = []
    for one in mine:
        running = np.cumsum(one, axis=0)
        before = running[first] - one[first]
        lefts.append(running - before[own.group])
    rights = [left[last][own.group] - left for left in lefts]
    bad = np.zeros(len(own.leaf), dtype=bool)
    for side in (lefts, rights):
        sizes = side[0].sum(axis=1)
        bad |= (sizes > 0) & ~allows(cut.protection, sizes, side, of)
    bad[last] = False
    return bad


def _with_margin(cut: Cut) -> Protection:
    """Return the protection with as many rows more as the noise on a part may have made up."""
    if not cut.deviation:
        return cut.protection
    most = max(int(np.bincount(own.group).max()) for own in cut.entries)
    margin = int(np.ceil(DEVIATIONS * cut.deviation * np.sqrt(most)))
    return replace(cut.protection, k=cut.protection.k + margin)


def _histograms(cut: Cut, sums: Integers, encoded: Encoded) -> list[Histogram]:
    """Return the sums as histograms: what is not 0, or everything where there is noise on it."""
    values, found, place = _values(cut, encoded), [], 0
    for own in cut.entries:
        parts = []
        for size in values or (1,):
            end = place + len(own.leaf) * size
            parts.append(sums[place:end].reshape(-1, size))
            place = end
        total = parts[0].sum(axis=1)
        if any((part.sum(axis=1) != total).any() for part in parts):
            raise DataError("the sums of sensitive columns differ: some client counted wrongly")
        there = total > 0 if not cut.deviation else np.full(len(total), True)
        joint = tuple(part[there] for part in parts) if values else ()
        found.append(Histogram(own.group[there], own.leaf[there], total[there], joint))
    return found


def _must_agree(histograms: Sequence[Histogram], groups: int) -> None:
    """Raise `DataError` where the histograms of a group are not of the same rows."""
    sizes = [np.bincount(own.group, weights=own.counts, minlength=groups) for own in histograms]
    if any((own != sizes[0]).any() for own in sizes) or not (sizes[0] > 0).all():
        raise DataError("the sums of a group's histograms differ: some client counted wrongly")


def _groups(histogram: Histogram, groups: int) -> tuple[Integers, list[Integers]]:
    """Return the sizes of groups, and their histograms of sensitive values."""
    sizes = np.zeros(groups, dtype=np.int64)
    np.add.at(sizes, histogram.group, histogram.counts)
    values = []
    for own in histogram.values:
        total = np.zeros((groups, own.shape[1]), dtype=np.int64)
        np.add.at(total, histogram.group, own)
        values.append(total)
    return sizes, values


def _unparted(cut: Cut, sums: Integers, histograms: Sequence[Histogram]) -> list[Histogram]:
    """Return histograms in which leaves that some table must not be cut between are one."""
    found, against = [], sums[-vetoes(cut) :]
    for own, histogram in zip(cut.entries, histograms, strict=True):
        mine, against = against[: len(own.leaf)], against[len(own.leaf) :]
        at, _ = own.find(histogram.group, histogram.leaf)
        # Between two leaves that are there, a cut behind the first is the same as any other.
        is_joined = np.append(False, (mine[at] > 0)[:-1] & (np.diff(histogram.group) == 0))
        first = np.flatnonzero(~is_joined)
        values = tuple(np.add.reduceat(one, first, axis=0) for one in histogram.values)
        total = np.add.reduceat(histogram.counts, first)
        found.append(Histogram(histogram.group[first], histogram.leaf[first], total, values))
    return found


def _deeper(cut: Cut, made: Cuts, histograms: Sequence[Histogram], refused: Integers) -> Cut:
    """Return the cut with one more level: new classes, and what is open below."""
    closed = made.quasi < 0
    number = cut.classes + np.cumsum(closed) - 1
    covers, entries = [], []
    for j, (old, own) in enumerate(zip(cut.covers, histograms, strict=True)):
        done = closed[own.group]
        more = Entries(number[own.group[done]], own.leaf[done])
        covers.append(old.followed_by(more))
        entries.append(_below(made, Entries(own.group[~done], own.leaf[~done]), j))
    levels = (*cut.levels, Level(cut.tree, made))
    tree, groups = cut.tree, made.next_groups
    may_be = any((own.cuts.to == ASIDE).any() for own in levels if own.tree == tree)
    if not groups and tree + 1 < cut.trees and may_be:
        tree, groups, entries = tree + 1, 1, list(full(cut.leaves))
    return replace(
        cut,
        tree=tree,
        levels=levels,
        open=groups,
        entries=tuple(entries),
        classes=cut.classes + int(closed.sum()),
        covers=tuple(covers),
        refused=(*cut.refused, *number[refused].tolist()),
        sums=cut.sums + 1,
    )


def _below(made: Cuts, own: Entries, quasi: int) -> Entries:
    """Return which leaves may be in the groups of the next level."""
    along = made.quasi[own.group] == quasi
    codes = np.zeros((int(along.sum()), len(made.quasi[:1]) * (quasi + 1)), dtype=np.int64)
    codes[:, quasi] = own.leaf[along]
    here = cutting.follow(made, codes, own.group[along]) if along.any() else np.zeros(0, np.int64)
    there = here != ASIDE
    kept = made.to != ASIDE
    pairs = np.unique(np.stack([made.group[kept], made.to[kept]], axis=1), axis=0)
    first = np.searchsorted(pairs[:, 0], np.arange(len(made.quasi) + 1))
    others, leaves = own.group[~along], own.leaf[~along]
    many = first[others + 1] - first[others]
    start_of = np.repeat(first[others], many)
    step = np.arange(len(start_of)) - np.repeat(np.cumsum(many) - many, many)
    group = np.concatenate([here[there], pairs[start_of + step, 1]])
    leaf = np.concatenate([own.leaf[along][there], np.repeat(leaves, many)])
    order = np.lexsort((leaf, group))
    return Entries(group[order], leaf[order])


def _classes(cut: Cut, encoded: Encoded) -> Integers:
    """Return the class of each row; -1 where it fits none, or one that nobody may see."""
    must_fit(cut, encoded)
    if cut.open:
        raise ValueError("assign: the cut is not finished")
    class_of, _, _ = descend(cut, encoded.codes)
    for j, own in enumerate(cut.covers):
        rows = np.flatnonzero(class_of >= 0)
        _, known = own.find(class_of[rows], encoded.codes[rows, j])
        class_of[rows[~known]] = -1
    class_of[np.isin(class_of, cut.refused)] = -1
    return class_of


def _numbered(class_of: Integers) -> tuple[Integers, Integers]:
    """Return the classes that there are, and each row's place among them, -1 for none."""
    numbers = np.unique(class_of[class_of >= 0])
    return numbers, np.where(class_of >= 0, np.searchsorted(numbers, class_of), -1)


def _covers_of_nodes(cut: Cut, nodes: Integers) -> list[list[Integers]]:
    """Return what groups cover: what all the classes do that they were cut into."""
    parent, node_of_class = nodes_of(cut)
    under: dict[int, list[int]] = {int(node): [] for node in nodes}
    for number in range(cut.classes):
        node = int(node_of_class[number])
        while node >= 0:
            if node in under and number not in cut.refused:
                under[node].append(number)
            node = int(parent[node]) if node else -1
    return [
        [
            np.unique(np.concatenate(own.of_groups(np.array(under[int(node)], dtype=np.int64))))
            for node in nodes
        ]
        for own in cut.covers
    ]


def _recoding(
    cut: Cut, trees: Sequence[Hierarchy], class_of: Integers, covers: Sequence[Any]
) -> Recoding:
    """Return the recoding of classes that cover these leaves: [quasi][class]."""
    index, values = [], list[Values]()
    for tree, own in zip(trees, covers, strict=True):
        if cut.how == "sets":
            one, different = distinct(own)
        else:
            bounds = np.array([_group_of(leaves, tree) for leaves in own]).reshape(-1, 2)
            one, different = of_ranges(bounds[:, 0], bounds[:, 1])
        index.append(one)
        values.append(different)
    return Recoding(class_of.astype(np.int32), np.stack(index, axis=1), tuple(values))


def _group_of(leaves: Integers, tree: Hierarchy) -> tuple[int, int]:
    """Return the leaves of the smallest group of the hierarchy that has all of some leaves."""
    for groups, starts in zip(tree.levels, tree.starts, strict=True):
        group = int(groups[leaves[0]])
        if group == groups[leaves[-1]]:
            return int(starts[group]), int(starts[group + 1])
    raise AssertionError("the last level has one group")
