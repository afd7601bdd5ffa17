"""Treatments: what is done to the cells of one column, one kind per file.

A treatment is a frozen dataclass whose fields are its settings. `apply(column, ctx)` returns a
column of the same index; `is_streaming` says whether pieces of a column may be treated one by one,
`roles` which columns it is for. Cells that are missing stay missing. Errors name the column and the
row, never the cell: messages end up in logs, and what is treated here is what logs must not hold.
"""

from fedsim.anonymize.treatments._context import ColumnContext, Treatment

__all__ = ["ColumnContext", "Treatment"]
