"""Numbers: intervals of growing width."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._tree import Hierarchy
from fedsim.errors import ConfigError, Problem

__all__ = ["Intervals"]

_MOST_LEAVES = 1_000_000
_EXACT = 1e-9  # of a step: what decimal fractions miss in binary


@dataclass(frozen=True, slots=True)
class Intervals:
    """Numbers from `min` to `max`, generalized to intervals.

    `step`: width of a leaf; 1 for whole numbers. `widths`: of the intervals of each level, each a
    multiple of the one before; they begin at multiples of themselves, whatever `min` is. Above them
    is the whole domain. `outside`: "nearest" takes the first or last leaf for numbers that are not
    in the domain (bottom and top coding), "refuse" refuses them.
    """

    min: float
    max: float
    step: Annotated[float, Gt(0)] = 1.0
    widths: tuple[Annotated[float, Gt(0)], ...] = ()
    outside: Literal["refuse", "nearest"] = "refuse"

    def __post_init__(self) -> None:
        """Check that the domain is one and that intervals nest."""
        problems = []
        if not self.max >= self.min:
            problems.append(Problem("max", self.max, f"a number >= min, {self.min:g}"))
        elif (self.max - self.min) / self.step >= _MOST_LEAVES:
            accepted = f"a step with at most {_MOST_LEAVES:,} leaves from min to max"
            problems.append(Problem("step", self.step, accepted))
        for fine, coarse in zip((self.step, *self.widths), self.widths, strict=False):
            ratio = coarse / fine
            if abs(ratio - round(ratio)) > _EXACT * ratio or round(ratio) < 2:
                accepted = f"a multiple of {fine:g}, the width of the level below"
                problems.append(Problem("widths", coarse, accepted))
        offset = self.min / self.step
        if self.widths and abs(offset - round(offset)) > _EXACT * max(1.0, abs(offset)):
            problems.append(Problem("min", self.min, f"a multiple of step, {self.step:g}"))
        if problems:
            raise ConfigError(problems)

    def build(self) -> Hierarchy:
        """Return the tree."""
        count = math.floor((self.max - self.min) / self.step + _EXACT) + 1
        index = np.arange(count, dtype=np.int32)
        lows = [self.min + i * self.step for i in range(count)]
        levels, labels = [index], [tuple(self._name(low, self.step) for low in lows)]
        first = round(self.min / self.step) if self.widths else 0
        for width in self.widths:
            steps = round(width / self.step)
            groups = (index + first) // steps - first // steps
            names = range(first // steps, first // steps + int(groups[-1]) + 1)
            levels.append(groups.astype(np.int32))
            labels.append(tuple(self._name(name * width, width) for name in names))
        if count > 1:
            levels.append(np.zeros(count, dtype=np.int32))
            labels.append(("*",))
        positions = np.array(lows) + (0.0 if self._is_whole else self.step / 2)
        return Hierarchy(tuple(levels), tuple(labels), positions)

    def codes(self, column: Any) -> NDArray[np.int32]:
        """Return the leaf of each cell; -1 for what is not in the domain, or no number."""
        import pandas as pd

        if pd.api.types.is_bool_dtype(column):
            return np.full(len(column), -1, dtype=np.int32)
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        with np.errstate(invalid="ignore", over="ignore"):
            if self.outside == "nearest":
                numbers = np.clip(numbers, self.min, self.max)  # NaN stays
            leaf = np.floor((numbers - self.min) / self.step + _EXACT)
            inside = (numbers >= self.min) & (numbers <= self.max)
        if self._is_whole:  # 3.5 is no whole number of years: nothing says what it would become
            inside &= numbers == np.floor(numbers)
        return np.where(inside, leaf, -1).astype(np.int32)

    @property
    def _is_whole(self) -> bool:
        """Say whether leaves are whole numbers and not intervals."""
        return self.step == 1 and float(self.min).is_integer()

    def _name(self, low: float, width: float) -> str:
        if not self._is_whole:
            return f"{low:.10g}..{low + width:.10g}"
        return f"{low:.0f}" if width == 1 else f"{low:.0f}-{low + width - 1:.0f}"
