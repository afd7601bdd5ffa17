"""Dates moved by some days, all those of one subject by as many: intervals stay, dates do not.

The number of days is a keyed pseudorandom function of the subject (HMAC-SHA-256 of its id), so that
clients with the same key file move a subject's dates alike, and nobody without it can tell by how
much. Hripcsak et al., "Preserving temporal relations in clinical data while maintaining privacy",
JAMIA 23(6), 2016, on what this keeps; seasons and days of the week are lost. It is no HIPAA Safe
Harbor method: that allows the year and nothing else.
"""

import datetime
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._texts import distinct, text_column
from fedsim.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DateShift"]

_SAMPLE = datetime.datetime(2023, 11, 27)  # no two of year, month and day are alike
_FIRST, _LAST = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True)
class DateShift:
    """Move each date by 1 to `days` days, forwards or backwards, by subject and nothing else.

    Text is read and written in `format` (as `datetime.strptime` has it), which needs a year, a
    month and a day; columns of dates or times stay such. All columns with this treatment and the
    same `days` move alike. Needs the column of subjects.
    """

    days: Annotated[int, Ge(1), Le(36525)] = 365
    format: str = "%Y-%m-%d"

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "quasi", "sensitive", "insensitive")

    def __post_init__(self) -> None:
        """Check that the format keeps a date."""
        try:
            written = _SAMPLE.strftime(self.format)
            is_kept = datetime.datetime.strptime(written, self.format).date() == _SAMPLE.date()
        except ValueError:
            is_kept = False
        if not is_kept:
            accepted = "a format with year, month and day, such as %Y-%m-%d or %d.%m.%Y %H:%M"
            raise ConfigError([Problem("format", self.format, accepted)])

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the moved dates. Raises `ConfigError` without key or subjects, `DataError`."""
        import pandas as pd

        key = ctx.key("date-shift", "")
        subject = ctx.subject
        if subject is None:
            raise ctx.misses("treatment", "a subject: dates move by whose they are. Name a column")
        missing = column.isna().to_numpy(dtype=bool)
        shifts = self._shifts(key, subject, ctx, missing)
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return column + pd.Series(shifts, index=column.index)
        is_date = pd.api.types.infer_dtype(column, skipna=True) == "date"
        given = self._read(column, missing, ctx, is_date=is_date)
        moved = given + pd.Series(shifts, index=column.index)
        outside = ~missing & ~((moved >= _FIRST) & (moved < _LAST + _DAY)).to_numpy(dtype=bool)
        if outside.any():
            row = column.index[int(outside.argmax())]
            raise ctx.refused("a date that stays in the years 1 to 9999 when it is moved", row)
        if is_date:
            return moved.dt.date.astype(object).where(~missing, None).rename(column.name)
        return moved.dt.strftime(self.format).astype("str").rename(column.name)

    def _read(
        self, column: "pd.Series", missing: NDArray[np.bool_], ctx: ColumnContext, *, is_date: bool
    ) -> "pd.Series":
        """Return the dates of dates or text, numbers such as 20240229 included."""
        import pandas as pd

        format = "%Y-%m-%d" if is_date else self.format
        text = text_column(*distinct(column, ctx), column)
        found = pd.to_datetime(text, format=format, errors="coerce")
        if (wrong := found.isna().to_numpy(dtype=bool) & ~missing).any():
            row = column.index[int(wrong.argmax())]
            raise ctx.refused(f"a date of the format {format} is needed", row)
        return found

    def _shifts(
        self, key: bytes, subject: "pd.Series", ctx: ColumnContext, missing: NDArray[np.bool_]
    ) -> NDArray[np.timedelta64]:
        """Return by how many days each row moves."""
        codes, subjects = distinct(subject, ctx)
        if (unknown := (codes < 0) & ~missing).any():
            row = subject.index[int(unknown.argmax())]
            raise ctx.refused("a row with a date needs a subject, and this one has none", row)
        table = np.array([*(_shift(key, one, self.days) for one in subjects), 0])
        return table[codes].astype("timedelta64[D]").astype("timedelta64[s]")


def _shift(key: bytes, subject: str, days: int) -> int:
    """Return one of -days, ..., -1, 1, ..., days, each as likely to 2^-100."""
    code = hmac.digest(key, subject.encode("utf-8", "surrogatepass"), "sha256")
    drawn = int.from_bytes(code[:16], "big") % (2 * days)
    return drawn - days if drawn < days else drawn - days + 1
