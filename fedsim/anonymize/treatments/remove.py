"""Removal: the column is not in what is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.anonymize.treatments._context import ColumnContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Remove"]


@dataclass(frozen=True, slots=True)
class Remove:
    """Drop the column. Whoever treats a table asks `is_dropped` and leaves the column out."""

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "quasi", "sensitive", "insensitive")
    is_dropped: ClassVar[bool] = True

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return a column of missing cells: even a caller who forgets to drop it writes nothing."""
        import pandas as pd

        return pd.Series([None] * len(column), index=column.index, name=column.name, dtype=object)
