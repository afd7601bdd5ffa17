"""Numbers rounded to multiples, ties to the even one (IEEE 754, roundTiesToEven)."""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Gt

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._numbers import number_column, numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rounding"]

_TIE = 1e-12  # of a quotient: what the binary form of a decimal number misses


@dataclass(frozen=True, slots=True)
class Rounding:
    """Round to multiples of `multiple`: ages to 5, amounts to 100, doses to 0.25.

    Ties are those of the decimal numbers: 0.15 is halfway between 0.1 and 0.2, and becomes 0.2.
    """

    multiple: Annotated[float, Gt(0)]

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("quasi", "sensitive", "insensitive")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the rounded numbers. Raises `DataError` for cells that are none."""
        quotient = numbers(column, ctx) / self.multiple
        half = np.floor(quotient) + 0.5
        is_tie = np.abs(quotient - half) <= _TIE * np.maximum(np.abs(quotient), 1)
        rounded = np.rint(np.where(is_tie, half, quotient)) * self.multiple
        exponent = Decimal(repr(self.multiple)).as_tuple().exponent
        if (
            isinstance(exponent, int) and -15 <= exponent < 0
        ):  # 3 x 0.1 is 0.3, not 0.30000000000000004
            rounded = np.round(rounded, -exponent)
        is_whole = float(self.multiple).is_integer()
        return number_column(rounded + 0.0, column, is_whole=is_whole)  # -0.0 becomes 0.0
