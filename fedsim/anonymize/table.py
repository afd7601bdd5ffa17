"""A table as codes: leaves of the quasi-identifiers' hierarchies, values of sensitive columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.hierarchies._values import text_of
from fedsim.anonymize.schema import Column, Distance, Schema
from fedsim.errors import ConfigError, DataError, Problem
from fedsim.registry import suggest

__all__ = ["Encoded", "Sensitive", "codes_of", "encode", "require_columns"]

_SHOWN = 5  # row numbers named in an error


@dataclass(frozen=True, eq=False)
class Sensitive:
    """A sensitive column: `codes` int32 [rows], into `values`; `tree` for hierarchical distance."""

    name: str
    codes: NDArray[np.int32]
    values: tuple[str, ...]
    distance: Distance = "equal"
    tree: Hierarchy | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows as a recoding sees them.

    `codes` int32 [rows, quasi]: leaves of `trees`. `sensitive`: the columns that l-diversity and
    t-closeness are about.
    """

    names: tuple[str, ...]
    trees: tuple[Hierarchy, ...]
    codes: NDArray[np.int32]
    sensitive: tuple[Sensitive, ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.codes)


def encode(frame: Any, schema: Schema) -> Encoded:
    """Return a pandas frame as codes.

    Raises `ConfigError` for columns that the frame or the schema lacks, and for a schema without
    quasi-identifiers; `DataError` for cells that are not in their column's domain: it names rows,
    counted from 1, and never a value, since whoever reads the message may not be who has the data.
    """
    require_columns(frame, schema)
    quasi = schema.having("quasi")
    if not quasi:
        accepted = "at least one column with role quasi: else there is nothing to generalize"
        raise ConfigError([Problem("columns", list(schema.columns), accepted)])
    trees = tuple(schema.columns[name].tree() for name in quasi)
    codes = np.empty((len(frame), len(quasi)), dtype=np.int32)
    for i, (name, tree) in enumerate(zip(quasi, trees, strict=True)):
        codes[:, i] = codes_of(frame[name], schema.columns[name], name, tree)
    sensitive = [
        _sensitive(frame[name], schema.columns[name], name) for name in schema.having("sensitive")
    ]
    return Encoded(quasi, trees, codes, tuple(sensitive))


def codes_of(
    cells: Any, column: Column, name: str, tree: Hierarchy, *, first: int = 1
) -> NDArray[np.int32]:
    """Return the leaves of a column's cells. Raises `DataError` as `encode` does.

    `first`: the number of the first row, where a table is read in pieces.
    """
    found: NDArray[np.int32] = column.hierarchy.codes(cells)
    is_empty = cells.isna().to_numpy(dtype=bool)
    if column.missing == "own":
        found = np.where(is_empty, tree.leaves - 1, found).astype(np.int32)
    elif is_empty.any():
        accepted = "drop or fill them, or set missing = 'own' in the schema"
        raise DataError(f"column {name!r}: {_rows(is_empty, first)} empty; {accepted}")
    bad = found < 0
    if bad.any():
        most = tree.leaves - tree.has_missing
        domain = f"{most} values from {tree.labels[0][0]!r} to {tree.labels[0][most - 1]!r}"
        raise DataError(
            f"column {name!r}: {_rows(bad, first)} not in the schema's domain ({domain}): widen "
            f"columns.{name}.hierarchy, or correct them"
        )
    return found


def require_columns(frame: Any, schema: Schema) -> None:
    """Raise `ConfigError` for columns that only the frame, or only the schema has."""
    problems = []
    there = [str(name) for name in frame.columns]
    if len(set(there)) < len(there):
        twice = sorted({name for name in there if there.count(name) > 1})
        problems.append(Problem("columns", twice, "names that are there once"))
    for name in schema.columns:
        if name not in there:
            accepted = f"a column of the table: {', '.join(there)}"
            problems.append(Problem(f"columns.{name}", name, accepted, suggest(name, there)))
    for name in there:
        if name not in schema.columns:
            accepted = (
                "a table with a role in the schema: a column that nobody declared is not let out"
            )
            problems.append(Problem(f"columns.{name}", None, accepted))
    if problems:
        raise ConfigError(problems)


def _sensitive(cells: Any, column: Column, name: str) -> Sensitive:
    if column.hierarchy is not None:
        tree = column.tree()
        values: Sequence[str] = tree.labels[0]
        return Sensitive(
            name, codes_of(cells, column, name, tree), tuple(values), column.distance, tree
        )
    is_empty = cells.isna().to_numpy(dtype=bool)
    numeric = cells.dtype.kind in "iuf" and not is_empty.any()
    if numeric:  # in their order, for ordered distance
        numbers, codes = np.unique(cells.to_numpy(), return_inverse=True)
        return Sensitive(
            name,
            codes.astype(np.int32),
            tuple(text_of(n) for n in numbers.tolist()),
            column.distance,
        )
    text = cells.map(text_of, na_action="ignore").fillna("missing").to_numpy(dtype=object)
    if column.distance == "ordered":
        accepted = "a column of numbers without empty cells, or with an ordered hierarchy"
        raise ConfigError([Problem(f"columns.{name}.distance", "ordered", accepted)])
    names, codes = np.unique(text.astype(str), return_inverse=True)
    return Sensitive(name, codes.astype(np.int32), tuple(map(str, names)), column.distance)


def _rows(which: NDArray[np.bool_], first: int) -> str:
    numbers = np.flatnonzero(which) + first
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    cells = "cell is" if len(numbers) == 1 else "cells are"
    return f"{len(numbers)} {cells} (row {shown})"
