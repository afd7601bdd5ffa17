"""Cells as text: what pseudonyms are made of, the same whatever type a file's reader chose.

- Text is normalized to NFC (Unicode annex 15), and not changed otherwise: case and spaces count.
- Whole numbers have no ".0": 7 and 7.0 are "7". Other numbers are written with as few digits as
  tell them apart. "7.0" as text stays "7.0", and "007" is not "7".
- A day is "2024-02-29"; a time of day other than midnight follows as in ISO 8601.
- True and False are "True" and "False".

Floating-point numbers from 2^53 on are refused: identifiers that long have lost digits when they
were read as such (which a missing cell is enough for), and two people would share a pseudonym.
"""

import datetime
import decimal
import math
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.treatments._context import ColumnContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["distinct", "text_column"]

_EXACT = 2.0**53


def distinct(column: "pd.Series", ctx: ColumnContext) -> tuple[NDArray[np.intp], list[str]]:
    """Return the different texts of a column, and which one each cell is: -1 for a missing one.

    Raises `DataError` for cells that are no text, number, date or truth value.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories()
        codes, texts = distinct(pd.Series(used.cat.categories), ctx)
        return np.append(codes, -1)[used.cat.codes.to_numpy()], texts
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) != "string":
        # One by one: for a hash table of objects, True is 1, and 7.0 is 7.
        cells = column.to_numpy(dtype=object)
        written = np.full(len(cells), None, dtype=object)
        for row in np.flatnonzero(~column.isna().to_numpy(dtype=bool)):
            written[row] = _text(cells[row], ctx, column.index[row])
        codes, found = pd.factorize(written)
        return codes, list(found)
    codes, cells = pd.factorize(column)
    is_float = pd.api.types.is_float_dtype(column.dtype)
    # A list would make numbers of 32 bits longer than they are.
    texts = [_text(cell, ctx) for cell in (np.asarray(cells) if is_float else cells.tolist())]
    if len(set(texts)) < len(texts):  # different cells, the same text
        again, found = pd.factorize(np.array(texts, dtype=object))
        return np.append(again, -1)[codes], list(found)
    return codes, texts


def text_column(codes: NDArray[np.intp], texts: list[str], column: "pd.Series") -> "pd.Series":
    """Return a column of texts by their numbers, in the place of another one."""
    import pandas as pd

    table = pd.array([*texts, None], dtype="str")
    return pd.Series(table.take(codes), index=column.index, name=column.name)


def _text(cell: Any, ctx: ColumnContext, row: object = None) -> str:
    if isinstance(cell, str):
        return cell if cell.isascii() else unicodedata.normalize("NFC", cell)
    if isinstance(cell, (bool, np.bool_)):
        return str(bool(cell))
    if isinstance(cell, (int, np.integer)):
        return str(int(cell))
    if isinstance(cell, (float, np.floating)):
        return _number(cell, ctx, row)
    if isinstance(cell, decimal.Decimal) and cell.is_finite():
        return f"{cell.normalize():f}" if cell else "0"
    if isinstance(cell, datetime.datetime):  # pandas' own are, too
        text = cell.isoformat()
        return text.removesuffix("T00:00:00")
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    raise ctx.refused(f"text, numbers or dates; there is a cell of type {type(cell).__name__}", row)


def _number(cell: Any, ctx: ColumnContext, row: object) -> str:
    if not (math.isfinite(cell) and abs(cell) < _EXACT):
        accepted = (
            "numbers that are finite and below 2^53; longer ones have lost digits already: "
            "read this column as text"
        )
        raise ctx.refused(accepted, row)
    # str, not repr: of a number of 32 bits, the digits that it has.
    return str(int(cell)) if float(cell).is_integer() else str(cell)
