"""What a model sees of a generalized table: numbers of a fixed width, alike on all clients.

Features live on the public domain of the schema and not on the classes that somebody's recoding
came to: clients that generalize differently still train one model, and rows that are exact are a
special case, so that a model is tested on raw rows without another encoding.

- A category or a set of them: weight 1, spread evenly over its leaves. An exact value is one-hot.
  Of a domain of more than `MOST_GROUPS` leaves, the finest level with at most so many groups
  stands for the leaves.
- A number or an interval: the mean position of its leaves, -1 and 1 being the ends of the domain,
  and its width, 1 being the domain's. An exact value has width 0.
- An empty cell is a leaf of its own; of numbers it is an indicator beside them.
- A suppressed row: everything, of all its quasi-identifiers, and one more indicator.

Columns without a hierarchy have no public domain and are left out, and so are direct identifiers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.recoding import Recoding, Values, of_ranges
from fedsim.anonymize.schema import Schema
from fedsim.anonymize.table import codes_of
from fedsim.errors import ConfigError, Problem

__all__ = ["MOST_GROUPS", "Encoding", "Inputs", "encoding_of"]

MOST_GROUPS = 1000
_AT_ONCE = 1024  # values whose weights are computed together: bounds the memory for large domains

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs that one column gives."""

    name: str
    tree: Hierarchy

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return a name for each input."""
        if not self.tree.is_ordered:
            return tuple(f"{self.name}={label}" for label in self.tree.labels[self._level])
        missing = (f"{self.name}=missing",) if self.tree.has_missing else ()
        return (self.name, f"{self.name} width", *missing)

    def of_values(self, values: Values) -> Floats:
        """Return float32 [values, inputs]."""
        if self.tree.is_ordered:
            return self._numbers(values)
        starts = self.tree.starts[self._level]
        found = np.empty((len(values), len(starts) - 1), dtype=np.float32)
        for first in range(0, len(values), _AT_ONCE):
            some = slice(first, min(first + _AT_ONCE, len(values)))
            inside = np.diff(_covered_before(values, some, starts), axis=1)
            found[some] = inside / values.covered[some, None]
        return found

    def of_codes(self, codes: NDArray[np.integer]) -> Floats:
        """Return float32 [rows, inputs] of exact cells."""
        leaves, place = np.unique(codes, return_inverse=True)
        _, values = of_ranges(leaves, leaves + 1)
        found: Floats = self.of_values(values)[place]
        return found

    def of_everything(self) -> Floats:
        """Return float32 [inputs]: any value, what a suppressed cell is."""
        _, values = of_ranges(np.array([0]), np.array([self.tree.leaves]))
        found: Floats = self.of_values(values)[0]
        return found

    @cached_property
    def _level(self) -> int:
        return next(i for i, names in enumerate(self.tree.labels) if len(names) <= MOST_GROUPS)

    def _numbers(self, values: Values) -> Floats:
        """Return mean position, width and, where cells may be empty, how much of it is that."""
        positions, has_missing = self.tree.positions, self.tree.has_missing
        assert positions is not None
        known = positions[: self.tree.leaves - has_missing]
        middle, half = (known[0] + known[-1]) / 2, max((known[-1] - known[0]) / 2, 1e-300)
        scaled = (known - middle) / half
        low = np.minimum(values.low, len(known))
        high = np.minimum(values.high, len(known))
        begins, final = values.offsets[:-1], values.offsets[1:] - 1
        # A last run of the leaf of empty cells alone has no position: the one before counts.
        final = np.where((low[final] < high[final]) | (final == begins), final, final - 1)
        sums = np.concatenate([[0.0], np.cumsum(scaled)])
        total = np.add.reduceat(sums[high] - sums[low], begins)
        count = np.add.reduceat((high - low).astype(np.int64), begins)
        first, last = low[begins], high[final]
        mean = np.where(count > 0, total / np.maximum(count, 1), 0.0)
        spread = scaled[np.maximum(last - 1, 0)] - scaled[np.minimum(first, len(known) - 1)]
        columns = [mean, np.where(count > 0, spread / 2, 0.0)]
        if has_missing:
            columns.append(1 - count / values.covered)
        return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Encoding:
    """The inputs of all columns, in the schema's order, and the indicator of a suppressed row.

    `quasi`: the columns that are generalized, in the order of a recoding's; `exact`: those that are
    inputs as they are. `left_out`: the columns that are no inputs.
    """

    inputs: tuple[Inputs, ...]
    quasi: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def exact(self) -> tuple[str, ...]:
        """Return the columns that are inputs and are not generalized."""
        return tuple(one.name for one in self.inputs if one.name not in self.quasi)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of each input."""
        return (*(name for one in self.inputs for name in one.names), "suppressed")

    @property
    def width(self) -> int:
        """Return the number of inputs."""
        return len(self.names)

    def codes(self, frame: Any, schema: Schema, *columns: str) -> dict[str, NDArray[np.int32]]:
        """Return the leaves of some columns of a frame, by default of all that are inputs.

        Raises `DataError` for cells that are not in the domain.
        """
        return {
            one.name: codes_of(frame[one.name], schema.columns[one.name], one.name, one.tree)
            for one in self.inputs
            if not columns or one.name in columns
        }

    def of_exact(self, codes: Mapping[str, NDArray[np.integer]]) -> Floats:
        """Return float32 [rows, width] of rows that nothing was done to."""
        parts = [one.of_codes(codes[one.name]) for one in self.inputs]
        return _joined(parts, np.zeros(len(parts[0]), dtype=np.float32))

    def of_released(
        self, recoding: Recoding, codes: Mapping[str, NDArray[np.integer]] | None = None
    ) -> Floats:
        """Return float32 [rows, width] of a recoding's rows; suppressed ones are among them.

        `codes`: of the columns that are inputs as they are.
        """
        suppressed = recoding.class_of < 0
        parts = []
        for one in self.inputs:
            if one.name not in self.quasi:
                parts.append(one.of_codes((codes or {})[one.name]))
                continue
            column = self.quasi.index(one.name)
            values = one.of_values(recoding.values[column])
            table = np.concatenate([values[recoding.index[:, column]], one.of_everything()[None]])
            parts.append(table[recoding.class_of])  # -1 is the last row
        return _joined(parts, suppressed.astype(np.float32))


def encoding_of(schema: Schema, target: str) -> Encoding:
    """Return the encoding of a schema's columns, without the one there is to learn.

    Raises `ConfigError` for a schema without quasi-identifiers.
    """
    inputs, left_out = [], []
    for name, column in schema.columns.items():
        if name == target:
            continue
        if column.hierarchy is None or column.role == "direct":
            left_out.append(name)
        else:
            inputs.append(Inputs(name, column.tree()))
    quasi = tuple(name for name in schema.having("quasi") if name != target)
    if not quasi:
        accepted = "at least one column with role quasi: else there is nothing to generalize"
        raise ConfigError([Problem("columns", list(schema.columns), accepted)])
    return Encoding(tuple(inputs), quasi, tuple(left_out))


def _covered_before(values: Values, some: slice, starts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return int64 [values, starts]: how many of a value's leaves come before each start."""
    begins = values.offsets[some.start : some.stop]
    runs = slice(begins[0], values.offsets[some.stop])
    low, high = (ends[runs, None].astype(np.int64) for ends in (values.low, values.high))
    covered: NDArray[np.int64] = np.add.reduceat(
        np.clip(starts[None, :], low, high) - low, begins - begins[0], axis=0
    )
    return covered


def _joined(parts: list[Floats], suppressed: Floats) -> Floats:
    return np.concatenate([*parts, suppressed[:, None]], axis=1)
