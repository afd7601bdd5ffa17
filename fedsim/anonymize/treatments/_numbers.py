"""Cells as numbers, and numbers as cells."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.treatments._context import ColumnContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["number_column", "numbers"]

_MOST = 2.0**53


def numbers(column: "pd.Series", ctx: ColumnContext) -> NDArray[np.float64]:
    """Return the cells as numbers, NaN for missing ones; text that is a number is one.

    Raises `DataError` for other cells, truth values and infinity, and numbers from 2^53 on,
    which would not come out as they went in.
    """
    import pandas as pd

    missing = column.isna().to_numpy(dtype=bool)
    given = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    kinds = (pd.api.types.is_bool_dtype, pd.api.types.is_datetime64_any_dtype)
    if any(is_kind(given.dtype) for is_kind in kinds) or _has_truth(given):
        raise ctx.refused(f"numbers are needed, not {column.dtype}")
    found = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~missing & ~(np.abs(found) < _MOST)
    if wrong.any():
        row = column.index[int(wrong.argmax())]
        raise ctx.refused("a number is needed, finite and below 2^53", row)
    return np.array(found)


def number_column(
    values: NDArray[np.float64], column: "pd.Series", *, is_whole: bool
) -> "pd.Series":
    """Return numbers in the place of a column: integers if that held them and `is_whole`."""
    import pandas as pd

    made = pd.Series(values, index=column.index, name=column.name)
    if not (is_whole and pd.api.types.is_integer_dtype(column.dtype)):
        return made
    is_nullable = pd.api.types.is_extension_array_dtype(column.dtype)
    return made.astype("Int64" if is_nullable else "int64")


def _has_truth(column: "pd.Series") -> bool:
    return column.dtype == object and any(isinstance(cell, (bool, np.bool_)) for cell in column)
