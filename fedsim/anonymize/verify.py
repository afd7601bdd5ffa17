"""Is a released table what it is said to be? Counted anew from its text alone.

Nothing of what made the table is used: classes are rows whose quasi-identifiers are written alike,
and the models are computed from them by other formulas than those that the recoding went by.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._collect import MISSING, Collected, as_numbers
from fedsim.anonymize.files import TableFile, as_frame, chunks
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.leftovers import Leftover, Watch
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.schema import Schema
from fedsim.anonymize.treating import is_dropped, kept
from fedsim.errors import ConfigError, Problem

__all__ = ["Reached", "Recount", "recount", "unmet"]

_CELLS = 4_000_000  # of a dense piece of histogram
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Reached:
    """What all classes have of one sensitive column: the least diversity, the largest distance.

    `distinct`, `entropy` (as exp of it), `recursive` (the largest l for the c that was asked for):
    the three l. `t`: earth mover's distance from the rows that are there, by the column's
    `distance`. `delta`: of delta-disclosure, None where a class lacks a value, so that it is
    infinite.
    """

    name: str
    distinct: int
    entropy: float
    recursive: int
    t: float
    distance: str
    delta: float | None


@dataclass(frozen=True, slots=True)
class Recount:
    """What a released table has.

    `k`: rows of its smallest class. `suppressed`: rows of "*". `leftovers`: what looks like
    personal data in columns that were let out as they were; `formulas`: columns with cells that a
    spreadsheet would compute.
    """

    rows: int
    suppressed: int
    classes: int
    k: int
    c: float
    sensitive: tuple[Reached, ...]
    leftovers: tuple[Leftover, ...]
    formulas: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def recount(
    table: TableFile,
    schema: Schema,
    *,
    c: float = 3.0,
    advance: Callable[[float], None] | None = None,
) -> Recount:
    """Count a released table. Raises `ConfigError` for a quasi-identifier that it lacks."""
    quasi = kept(schema, "quasi")
    sensitive = [name for name in kept(schema, "sensitive") if name in table.columns]
    _require(table, schema, quasi)
    watch = Watch(schema, table.columns)
    texts = {name: Collected() for name in (*quasi, *sensitive)}
    for batch in chunks(table, advance=advance):
        frame = as_frame(batch, schema.empty)
        watch.add(frame)
        for name, collected in texts.items():
            collected.add(frame[name])
    codes = {name: collected.codes() for name, collected in texts.items()}
    names = {name: list(collected.texts) for name, collected in texts.items()}
    rows = len(codes[quasi[0]])
    is_blank = np.ones(rows, dtype=bool)
    for name in (*quasi, *sensitive):
        blank = "*" if name in quasi else MISSING
        is_blank &= np.array([text == blank for text in names[name]] or [False])[codes[name]]
    if is_blank.all():  # nothing but "*": one class, that tells nothing
        is_blank[:] = False
    class_of = _classes([codes[name][~is_blank] for name in quasi])
    sizes = np.bincount(class_of)
    reached = tuple(
        _reached(name, schema, names[name], codes[name][~is_blank], class_of, c)
        for name in sensitive
        if len(class_of)
    )
    least = int(sizes.min(initial=rows)) if len(sizes) else 0
    blank_rows, left = int(is_blank.sum()), watch.found()
    return Recount(rows, blank_rows, len(sizes), least, c, reached, left, watch.formulas())


def unmet(found: Recount, protection: Protection) -> list[str]:
    """Say what of a protection a table does not have; k-map needs a population and is left out."""
    wrong = []
    if found.k < protection.k:
        wrong.append(f"k = {found.k}, declared {protection.k}")
    for column in found.sensitive:
        if protection.diversity != "none":
            has = getattr(column, protection.diversity)
            if has < protection.l - _ROUNDING:
                kind = protection.diversity
                wrong.append(f"{column.name}: {kind} l = {has:.4g}, declared {protection.l:.4g}")
        if protection.t is not None and column.t > protection.t + _ROUNDING:
            wrong.append(f"{column.name}: t = {column.t:.4g}, declared {protection.t:.4g}")
        if protection.delta is not None:
            has = np.inf if column.delta is None else column.delta
            if has >= protection.delta:
                wrong.append(f"{column.name}: delta = {has:.4g}, declared {protection.delta:.4g}")
    return wrong


def _require(table: TableFile, schema: Schema, quasi: tuple[str, ...]) -> None:
    lacks = [name for name in quasi if name not in table.columns]
    problems = [
        Problem(f"columns.{name}", name, f"a column of {table.path}: {', '.join(table.columns)}")
        for name in lacks
    ]
    if not quasi:
        problems = [Problem("columns", list(schema.columns), "one with role quasi at least")]
    if problems:
        raise ConfigError(problems)


def _classes(columns: list[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Return the class of each row, numbered from 0."""
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for codes in columns:
        keys = found * (int(codes.max(initial=0)) + 1) + codes
        found = np.unique(keys, return_inverse=True)[1].reshape(-1)
    return found


def _reached(
    name: str,
    schema: Schema,
    texts: list[str],
    codes: NDArray[np.int32],
    class_of: NDArray[np.int64],
    c: float,
) -> Reached:
    values, count, tree = _values(name, schema, texts, codes)
    keys, counts = np.unique(class_of * count + values, return_counts=True)
    classes, value = keys // count, keys % count
    sizes = np.bincount(class_of)
    table = np.bincount(values, minlength=count) / len(values)
    share = counts / sizes[classes]
    entropy = np.bincount(classes, -share * np.log(share))
    there = int((table > 0).sum())
    different = np.bincount(classes)
    delta = float(np.abs(np.log(share / table[value])).max())
    distance = schema.columns[name].distance
    return Reached(
        name,
        int(different.min()),
        float(np.exp(entropy).min()),
        _recursive(classes, counts, c),
        max(float(d.max()) for d in _distances(classes, value, share, table, distance, tree)),
        distance,
        delta if different.min() == there else None,
    )


def _values(
    name: str, schema: Schema, texts: list[str], codes: NDArray[np.int32]
) -> tuple[NDArray[np.int64], int, Hierarchy | None]:
    """Return the place of each row's value, in the order of its column, and how many there are."""
    import pandas as pd

    column = schema.columns[name]
    if column.hierarchy is not None and column.treatment is None:
        tree = column.tree()
        cells = pd.Series([None if text == MISSING else text for text in texts], dtype=object)
        leaf = column.hierarchy.codes(cells)
        leaf = np.where(cells.isna().to_numpy(), tree.leaves - 1, leaf)
        if leaf.min() < 0:
            accepted = "a released column whose values are in the schema's domain"
            raise ConfigError([Problem(f"columns.{name}.hierarchy", name, accepted)])
        return leaf.astype(np.int64)[codes], tree.leaves, tree
    numbers = as_numbers(texts)
    keys = np.array(texts) if numbers is None else numbers
    different, place = np.unique(keys, return_inverse=True)
    return place.reshape(-1).astype(np.int64)[codes], len(different), None


def _recursive(classes: NDArray[np.int64], counts: NDArray[np.int64], c: float) -> int:
    """Return the largest l with r1 < c (r_l + r_(l+1) + ...) in every class."""
    order = np.lexsort((-counts, classes))
    classes, counts = classes[order], counts[order]
    least = None
    for piece in np.split(counts, np.flatnonzero(np.diff(classes)) + 1):
        tails = piece[::-1].cumsum()[::-1]
        has = int((piece[0] < c * tails).sum())
        least = has if least is None else min(least, has)
    return least or 0


def _distances(
    classes: NDArray[np.int64],
    value: NDArray[np.int64],
    share: NDArray[np.float64],
    table: NDArray[np.float64],
    distance: str,
    tree: Hierarchy | None,
) -> Iterator[NDArray[np.float64]]:
    """Yield each class's earth mover's distance from the table, many classes at a time."""
    count = int(classes[-1]) + 1
    if distance == "equal" or len(table) < 2:
        moved = np.bincount(classes, np.abs(share - table[value]) - table[value]) + 1
        yield moved / 2
        return
    step = max(1, _CELLS // len(table))
    for first in range(0, count, step):
        inside = slice(*np.searchsorted(classes, [first, first + step]))
        extra = np.tile(-table, (min(step, count - first), 1))
        extra[classes[inside] - first, value[inside]] += share[inside]
        if distance == "ordered":
            yield np.abs(extra.cumsum(axis=1)[:, :-1]).sum(axis=1) / (len(table) - 1)
        elif tree is not None:
            yield _over_edges(extra, tree)


def _over_edges(extra: NDArray[np.float64], tree: Hierarchy) -> NDArray[np.float64]:
    """Return the distance on a tree: what has to cross each edge, times the edge's length.

    Two leaves whose lowest common ancestor has height h of H are h / H apart, so that an edge is
    1 / (2 H) long.
    """
    crossed = np.zeros(len(extra))
    for groups in tree.levels[:-1]:
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        crossed += np.abs(np.add.reduceat(extra, starts, axis=1)).sum(axis=1)
    found: NDArray[np.float64] = crossed / (2 * max(tree.height, 1))
    return found


def undeclared(table: TableFile, schema: Schema) -> list[str]:
    """Say which columns should not be in a released table: undeclared ones, and those dropped."""
    wrong = []
    for name in table.columns:
        if name not in schema.columns:
            wrong.append(f"column {name!r} is not in the schema")
        elif is_dropped(schema, name):
            wrong.append(f"column {name!r} is {schema.columns[name].role} and should be removed")
    return wrong
