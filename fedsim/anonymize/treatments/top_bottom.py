"""Top and bottom coding: what is beyond a bound becomes the bound.

Bounds come from the schema, never from the records: the largest value of a client is a fact about
one person. HIPAA Safe Harbor (45 CFR 164.514(b)(2)(i)(C)) makes all ages over 89 one class, "90 or
older": top = 90.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._numbers import number_column, numbers
from fedsim.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TopBottom"]


@dataclass(frozen=True, slots=True)
class TopBottom:
    """Raise numbers below `bottom` to it, lower numbers above `top` to it; one may be unset."""

    bottom: float | None = None
    top: float | None = None

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("quasi", "sensitive", "insensitive")

    def __post_init__(self) -> None:
        """Check that there is a bound, and that they are in order."""
        if self.bottom is None and self.top is None:
            raise ConfigError([Problem("top", None, "a number, unless bottom is one")])
        if self.bottom is not None and self.top is not None and not self.bottom < self.top:
            raise ConfigError([Problem("top", self.top, f"a number > bottom, {self.bottom:g}")])

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the coded numbers. Raises `DataError` for cells that are none."""
        bounds = [bound for bound in (self.bottom, self.top) if bound is not None]
        coded = np.clip(numbers(column, ctx), self.bottom, self.top)
        is_whole = all(float(bound).is_integer() for bound in bounds)
        return number_column(coded, column, is_whole=is_whole)
