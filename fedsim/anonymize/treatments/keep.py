"""Nothing: the column stays as it is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.anonymize.treatments._context import ColumnContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Keep"]


@dataclass(frozen=True, slots=True)
class Keep:
    """Say that a column needs no treatment; direct identifiers always need one."""

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("quasi", "sensitive", "insensitive")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return a copy."""
        return column.copy()
