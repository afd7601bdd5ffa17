"""Dates: truncated to months, quarters, years, decades."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._tree import Hierarchy
from fedsim.errors import ConfigError, Problem

__all__ = ["Dates"]

Unit = Literal["day", "month", "quarter", "year", "decade"]
_ORDER: tuple[Unit, ...] = ("day", "month", "quarter", "year", "decade")
_MOST_LEAVES = 1_000_000


@dataclass(frozen=True, slots=True)
class Dates:
    """Dates from `min` to `max` (ISO, 1990-01-31), truncated.

    `leaf`: what an exact date is taken as. `levels`: what it is truncated to, ever coarser; above
    them is the whole domain. `format`: of the column, as in strptime; empty takes ISO dates.
    """

    min: str
    max: str
    leaf: Unit = "day"
    levels: tuple[Unit, ...] = ("month", "year", "decade")
    format: str = ""

    def __post_init__(self) -> None:
        """Check the domain and that levels get coarser."""
        days = []
        for key in ("min", "max"):
            try:
                days.append(date.fromisoformat(getattr(self, key)))
            except ValueError as error:
                accepted = "a date such as 1990-01-31"
                raise ConfigError([Problem(key, getattr(self, key), accepted)]) from error
        if days[1] < days[0]:
            raise ConfigError([Problem("max", self.max, f"a date not before min, {self.min}")])
        order = [_ORDER.index(unit) for unit in (self.leaf, *self.levels)]
        if sorted(set(order)) != order:
            accepted = f"ever coarser than {self.leaf}: of {', '.join(_ORDER)}"
            raise ConfigError([Problem("levels", list(self.levels), accepted)])

    def build(self) -> Hierarchy:
        """Return the tree."""
        days = np.arange(np.datetime64(self.min), np.datetime64(self.max) + 1)
        leaf = _number(days, self.leaf)
        first = np.flatnonzero(np.diff(leaf, prepend=leaf[0] - 1))
        days = days[first]  # of each leaf
        levels, labels = [], []
        for unit in (self.leaf, *self.levels):
            number = _number(days, unit)
            starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
            levels.append(np.searchsorted(starts, np.arange(len(days)), "right") - 1)
            labels.append(tuple(_name(day, unit) for day in days[starts]))
        if levels[-1][-1] > 0:
            levels.append(np.zeros(len(days), dtype=np.int64))
            labels.append(("*",))
        positions = days.astype(np.int64).astype(np.float64)
        return Hierarchy(
            tuple(level.astype(np.int32) for level in levels), tuple(labels), positions
        )

    def codes(self, column: Any) -> NDArray[np.int32]:
        """Return the leaf of each cell; -1 for what is no date of the domain."""
        import pandas as pd

        indices, uniques = pd.factorize(column, use_na_sentinel=True)
        kind = self.format or "ISO8601"
        parsed = pd.to_datetime(pd.Series(uniques).astype(str), format=kind, errors="coerce")
        days = np.append(parsed.to_numpy().astype("datetime64[D]"), np.datetime64("NaT"))
        low, high = np.datetime64(self.min), np.datetime64(self.max)
        inside = (days >= low) & (days <= high)
        number = _number(np.where(inside, days, low), self.leaf)
        leaf = number - _number(np.array([low]), self.leaf)[0]
        found: NDArray[np.int32] = np.where(inside, leaf, -1).astype(np.int32)[indices]
        return found


def _number(days: NDArray[np.datetime64], unit: Unit) -> NDArray[np.int64]:
    """Return the number of each day's month, year, ...: days of the same one have the same."""
    if unit == "day":
        return days.astype(np.int64)
    months = days.astype("datetime64[M]").astype(np.int64)  # since 1970
    size = {"month": 1, "quarter": 3, "year": 12, "decade": 120}[unit]
    return months // size


def _name(day: np.datetime64, unit: Unit) -> str:
    text = str(day)
    year, month = int(text[:4]), int(text[5:7])
    names = {"day": text, "month": text[:7], "quarter": f"{year}-Q{(month + 2) // 3}"}
    return {**names, "year": str(year), "decade": f"{year // 10 * 10}s"}[unit]
