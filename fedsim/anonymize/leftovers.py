"""Personal data that is left in columns which are let out as they are: looked for by patterns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.anonymize.schema import Schema
from fedsim.anonymize.treating import is_dropped

__all__ = ["Leftover", "Watch", "formulas"]

_MOST_TEXTS = 5_000  # different cells that are looked at, of each column
_MOST_LENGTH = 2_000
# Kinds that need a word beside them or are on a list: in a column of diagnoses, Parkinson is no
# patient, and a date or an amount no telephone.
_UNSURE = {
    "date", "year", "age", "age-over-89", "medical-record", "health-plan", "account", "licence",
    "device", "vehicle", "plate", "code", "address", "postcode", "title", "person", "place",
    "organization",
}  # fmt: skip
_FORMULA = ("=", "@", "+", "-", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Leftover:
    """In a column, cells that look like a kind of personal data: a share of those looked at."""

    column: str
    kind: str
    share: float


class Watch:
    """Looks at the different cells of columns that nothing has been done to."""

    def __init__(self, schema: Schema, columns: Sequence[str]) -> None:
        """Begin; `columns` are those of the table."""
        self._texts: dict[str, set[str]] = {
            name: set() for name in columns if _is_let_out(schema, name)
        }

    def add(self, frame: Any) -> None:
        """Take the next piece of the table: a pandas frame."""
        for name, texts in self._texts.items():
            if len(texts) < _MOST_TEXTS and frame[name].dtype.kind == "O":
                for cell in frame[name].dropna().unique():
                    if len(texts) < _MOST_TEXTS:
                        texts.add(str(cell)[:_MOST_LENGTH])

    def found(self) -> tuple[Leftover, ...]:
        """Return what there is, by column."""
        from fedsim.anonymize.text.detect import KINDS, Finder

        finder = Finder([kind for kind in KINDS if kind not in _UNSURE])
        found = []
        for name, texts in self._texts.items():
            counts: dict[str, int] = {}
            for spans in finder.find_all(texts):
                for kind in {span.kind for span in spans}:
                    counts[kind] = counts.get(kind, 0) + 1
            found += [
                Leftover(name, kind, round(count / len(texts), 4))
                for kind, count in sorted(counts.items())
            ]
        return tuple(found)

    def formulas(self) -> tuple[str, ...]:
        """Return the columns with a cell that a spreadsheet would compute."""
        return tuple(name for name, texts in self._texts.items() if any(map(formulas, texts)))


def formulas(text: str) -> bool:
    """Say whether a spreadsheet would take a text for a formula.

    >>> formulas("=cmd|'/C calc'!A0"), formulas("-3.5"), formulas("- none -")
    (True, False, True)
    """
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _is_let_out(schema: Schema, name: str) -> bool:
    """Say whether a column has its cells as they were."""
    if name not in schema.columns:
        return True
    column = schema.columns[name]
    return column.role in ("sensitive", "insensitive") and (
        column.treatment is None and not is_dropped(schema, name)
    )
