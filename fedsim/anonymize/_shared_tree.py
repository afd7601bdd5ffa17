"""A shared cut as data: what was decided level by level, and where a row goes by it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.cuts import ASIDE, Cuts, follow
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, DataError

__all__ = [
    "Cut",
    "Entries",
    "How",
    "KOver",
    "Level",
    "cut_from_dict",
    "descend",
    "differs",
    "extends",
    "full",
    "must_fit",
    "nodes_of",
]

How = Literal["sets", "nodes"]
KOver = Literal["federation", "client"]
Integers = NDArray[np.int64]

_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Leaves of groups (or of classes), of one quasi-identifier: ascending by group, then leaf."""

    group: Integers
    leaf: Integers

    def find(
        self, group: NDArray[np.integer], leaf: NDArray[np.integer]
    ) -> tuple[Integers, NDArray[np.bool_]]:
        """Return the places of pairs, and which of them are here."""
        if not len(self.leaf):
            return np.zeros(len(leaf), np.int64), np.zeros(len(leaf), bool)
        span = max(int(self.leaf.max()), int(leaf.max(initial=0))) + 1
        keys, wanted = self.group * span + self.leaf, np.asarray(group, np.int64) * span + leaf
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return place, keys[place] == wanted

    def of_groups(self, groups: Integers) -> list[Integers]:
        """Return the leaves of some groups."""
        low, high = (np.searchsorted(self.group, groups, side) for side in ("left", "right"))
        return [self.leaf[a:b] for a, b in zip(low, high, strict=True)]

    def followed_by(self, more: "Entries") -> "Entries":
        """Return these and those of later groups."""
        return Entries(
            *(np.concatenate(own) for own in ((self.group, more.group), (self.leaf, more.leaf)))
        )


def full(leaves: Sequence[int]) -> tuple[Entries, ...]:
    """Return all leaves of all quasi-identifiers, of one group."""
    return tuple(Entries(np.zeros(n, np.int64), np.arange(n)) for n in leaves)


def _empty() -> Entries:
    return Entries(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What became of the groups that were open; `tree`: rows set aside come into the next one."""

    tree: int
    cuts: Cuts


@dataclass(frozen=True, eq=False)
class Cut:
    """A generalization that several tables share, or one that is being agreed on.

    `schema`: fingerprint of the schema that it is of; `names` and `leaves` of its
    quasi-identifiers. `how`: whether released values are sets of leaves or groups of the
    hierarchy. `k_over`: whether every class has k rows in all tables together, or in each table
    that has any. `trees`: rows set aside by one come into the next, `tree` is the one that grows.
    `open`: how many groups may be cut further, `entries` their leaves; `covers`: those of the
    classes. `refused`: classes that have not what the protection asks for, whose rows are
    suppressed. `references`: shares of sensitive values in all tables. `deviation`: of the noise on
    sums. `sums`: how many it took.
    """

    schema: str
    names: tuple[str, ...]
    leaves: tuple[int, ...]
    how: How
    protection: Protection
    k_over: KOver
    trees: int
    tree: int = 0
    levels: tuple[Level, ...] = ()
    open: int = 1
    entries: tuple[Entries, ...] = ()
    classes: int = 0
    covers: tuple[Entries, ...] = ()
    refused: tuple[int, ...] = ()
    references: tuple[tuple[float, ...], ...] = ()
    deviation: float = 0.0
    sums: int = 0

    def __post_init__(self) -> None:
        if not self.covers:
            object.__setattr__(self, "covers", tuple(_empty() for _ in self.names))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {"version": _VERSION, "protection": asdict(self.protection)}
        plain |= {name: getattr(self, name) for name in _PLAIN}
        plain["levels"] = [_plain(level) for level in self.levels]
        for name in ("entries", "covers"):
            plain[name] = [[own.group.tolist(), own.leaf.tolist()] for own in getattr(self, name)]
        return plain

    def encode(self) -> bytes:
        """Return the canonical JSON: equal cuts have equal bytes."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode()

    def fingerprint(self) -> str:
        """Return SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()


_PLAIN: tuple[str, ...] = (
    *("schema", "names", "leaves", "how", "k_over", "trees", "tree", "open", "classes"),
    *("refused", "references", "sums", "deviation"),
)
_OF_CUTS = ("quasi", "group", "low", "to")


def _plain(level: Level) -> dict[str, Any]:
    own = {name: getattr(level.cuts, name).tolist() for name in _OF_CUTS}
    return {"tree": level.tree, "next_groups": level.cuts.next_groups, **own}


def cut_from_dict(plain: Mapping[str, Any]) -> Cut:
    """Read what `Cut.to_dict` wrote, from JSON. Raises `DataError` for anything else."""
    try:
        if plain["version"] != _VERSION:
            raise ValueError(f"version {plain['version']!r}, not {_VERSION}")
        if plain["how"] not in get_args(How) or plain["k_over"] not in get_args(KOver):
            raise ValueError(f"how {plain['how']!r}, k_over {plain['k_over']!r}")
        values = {name: _as_tuples(plain[name]) for name in _PLAIN}
        levels = tuple(Level(int(own["tree"]), _cuts(own)) for own in plain["levels"])
        entries, covers = (
            tuple(Entries(_integers(group), _integers(leaf)) for group, leaf in plain[name])
            for name in ("entries", "covers")
        )
        if len(covers) != len(values["names"]):
            raise ValueError("there are not as many covers as quasi-identifiers")
        protection = Protection(**plain["protection"])
        found = Cut(**values, protection=protection, levels=levels, entries=entries, covers=covers)
        _check(found)
    except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise DataError(f"this is no shared cut: {error}") from error
    return found


def _cuts(plain: Mapping[str, Any]) -> Cuts:
    quasi, group, low, to = (_integers(plain[name]) for name in _OF_CUTS)
    return Cuts(quasi, group, low, to, int(plain["next_groups"]))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _integers(plain: Any) -> Integers:
    found = np.array(plain, dtype=np.int64)
    if found.ndim != 1:
        raise ValueError("whole numbers in a row are wanted")
    return found


def _check(cut: Cut) -> None:
    """Raise `ValueError` for numbers that lead a row out of the tree."""
    if len(cut.names) != len(cut.leaves):
        raise ValueError("there are not as many leaves as quasi-identifiers")
    groups = 1
    for level in cut.levels:
        own = level.cuts
        is_cut = np.flatnonzero(own.quasi >= 0)
        if len(own.quasi) != groups or not len(own.group) == len(own.low) == len(own.to):
            raise ValueError("a level does not fit the one above it")
        if (own.quasi >= len(cut.names)).any() or (own.to >= own.next_groups).any():
            raise ValueError("a level leads to what there is not")
        firsts = own.group[np.flatnonzero(np.diff(own.group, prepend=-1))]
        if firsts.tolist() != is_cut.tolist() or (own.to < ASIDE).any():
            raise ValueError("a level has no way on for some group")
        groups = own.next_groups or 1
    for one in (*cut.covers, *cut.entries):
        if len(one.group) != len(one.leaf) or (one.group < 0).any() or (one.leaf < 0).any():
            raise ValueError("leaves of groups come in pairs")


#: What holds for a cut from the first level to the last.
_FIXED = ("schema", "names", "leaves", "how", "protection", "k_over", "trees", "deviation")


def differs(cut: Cut, other: Cut) -> str:
    """Return the first thing in which two cuts can be no levels of one, "" where there is none."""
    return next((name for name in _FIXED if getattr(cut, name) != getattr(other, name)), "")


def extends(after: Cut, before: Cut) -> int:
    """Return how many levels one cut has beyond another that it goes on from; -1 if it does not."""
    levels = after.levels[: len(before.levels)]
    old, new = ([_plain(level) for level in own] for own in (before.levels, levels))
    is_so = (
        not differs(after, before)
        and old == new
        and before.references in ((), after.references)
        and before.refused == after.refused[: len(before.refused)]
        and all(_begins_with(*both) for both in zip(after.covers, before.covers, strict=True))
    )
    return len(after.levels) - len(before.levels) if is_so else -1


def _begins_with(after: Entries, before: Entries) -> bool:
    size = len(before.leaf)
    begins = after.group[:size], after.leaf[:size]
    return bool(np.array_equal(begins, (before.group, before.leaf)))


def must_fit(cut: Cut, encoded: Encoded) -> None:
    """Raise `DataError` unless a table has the columns that a cut is of."""
    if cut.names != encoded.names:
        raise DataError(f"the cut is of columns {list(cut.names)}, not {list(encoded.names)}")
    for name, leaves, tree in zip(cut.names, cut.leaves, encoded.trees, strict=True):
        if leaves != tree.leaves:
            raise DataError(f"{name!r} has {tree.leaves} values in the schema, {leaves} in the cut")


def descend(cut: Cut, codes: NDArray[np.integer]) -> tuple[Integers, Integers, Integers]:
    """Return (class_of, rows, at): -1 for rows without a class; rows in open groups, and which."""
    class_of = np.full(len(codes), -1, dtype=np.int64)
    rows, at = np.arange(len(codes)), np.zeros(len(codes), dtype=np.int64)
    aside: list[Integers] = []
    classes = 0
    for level in cut.levels:
        closed = level.cuts.quasi < 0
        is_done = closed[at]
        class_of[rows[is_done]] = (classes + np.cumsum(closed) - 1)[at[is_done]]
        classes += int(closed.sum())
        rows, at = rows[~is_done], at[~is_done]
        if len(rows):
            at = follow(level.cuts, codes[rows], at)
        aside.append(rows[at == ASIDE])
        rows, at = rows[at != ASIDE], at[at != ASIDE]
        if not level.cuts.next_groups:
            rows, aside = np.concatenate(aside), []
            at = np.zeros(len(rows), dtype=np.int64)
    return class_of, rows, at


def nodes_of(cut: Cut) -> tuple[Integers, Integers]:
    """Return (parent of each node, node of each class); node 0 is above all, and is its own.

    Nodes are the groups of all levels, in order.
    """
    parent, node_of_class, above = [0], list[int](), [0]
    for level in cut.levels:
        here = list(range(len(parent), len(parent) + len(above)))
        parent += above
        node_of_class += [here[g] for g in np.flatnonzero(level.cuts.quasi < 0)]
        following = np.zeros(level.cuts.next_groups, dtype=np.int64)
        kept = level.cuts.to != ASIDE
        following[level.cuts.to[kept]] = level.cuts.group[kept]
        above = [here[g] for g in following] or [0]
    return np.array(parent), np.array(node_of_class, dtype=np.int64)
