"""Free text: personal data found and replaced, the record's own identifiers first of all.

What no rule and no value of the record finds stays in the text: a name on no list, a nickname, a
story that points at somebody. Redacted text is not anonymous; where free text is not needed, the
treatment `remove` is safer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedsim.anonymize.text.detect import check_kinds
from fedsim.anonymize.text.engines import EngineName
from fedsim.anonymize.text.profiles import ProfileName, kinds_of
from fedsim.anonymize.text.reading import Record, read
from fedsim.anonymize.text.redact import Replacement, Style, code, keyed_tags, redact, tag
from fedsim.anonymize.text.surrogates import surrogates
from fedsim.anonymize.treatments._context import ColumnContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Redact"]


@dataclass(frozen=True, slots=True)
class Redact:
    """Find personal data in each text of a column, and put something else in its place.

    `profile`: what to look for, "pii" or the identifiers of HIPAA's Safe Harbor; `kinds` narrows or
    names it kind by kind. `style`: "tag" writes [EMAIL]; "keyed-tag" writes [EMAIL-3f9a...], equal
    for equal values under the key; "surrogate" writes values from ranges that are nobody's, under
    the key too, with dates moved by one shift a subject. `engine`: "rules", or "presidio" where it
    is installed. `known`: columns with identifiers of the record, which its text is searched for in
    any spelling; by default all direct identifiers. `domain`: columns that name the same one get
    equal tags for equal values.
    """

    profile: ProfileName = "pii"
    style: Style = "tag"
    engine: EngineName = "rules"
    kinds: tuple[str, ...] | None = None
    known: tuple[str, ...] | None = None
    domain: str | None = None

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "insensitive", "quasi", "sensitive")

    def __post_init__(self) -> None:
        """Raise `ConfigError` for kinds that do not exist."""
        if self.kinds is not None:
            check_kinds(self.kinds, "treatment.kinds")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the texts with what was found in them replaced; missing ones stay missing.

        Raise `ConfigError` without a key where the style needs one, and for columns in `known` that
        the table does not have; `SetupError` where the engine is not installed.
        """
        import pandas as pd

        kinds = tuple(sorted(kinds_of(self.profile))) if self.kinds is None else self.kinds
        texts, rows = _texts(column), len(column)
        found = read(texts, self._records(rows, ctx), self.engine, kinds, ctx.processes)
        cells = [
            None if missing else redact(text, spans, replacement)
            for text, missing, spans, replacement in zip(
                texts, column.isna(), found, self._replacements(rows, ctx), strict=True
            )
        ]
        return pd.Series(cells, index=column.index, name=column.name, dtype="str")

    def _records(self, rows: int, ctx: ColumnContext) -> Iterator[Record]:
        """Yield what is known of each row's person."""
        names = tuple(ctx.row_values) if self.known is None else self.known
        for name in names:
            if name not in ctx.row_values:
                accepted = f"columns of the table that are direct identifiers; {name!r} is none"
                raise ctx.misses("treatment.known", accepted)
        if not names:
            return iter([()] * rows)
        columns = [_texts(ctx.row_values[name]) for name in names]
        return (tuple(zip(names, row, strict=True)) for row in zip(*columns, strict=True))

    def _replacements(self, rows: int, ctx: ColumnContext) -> Iterator[Replacement]:
        """Yield how each row's values are replaced: surrogates' dates move by subject."""
        if self.style == "tag":
            return iter([tag] * rows)
        key = ctx.key("redact", self.domain if self.domain is not None else ctx.name)
        if self.style == "keyed-tag":
            return iter([keyed_tags(key)] * rows)
        if ctx.subject is None:
            return iter([surrogates(key)] * rows)
        return (surrogates(key, code(key, text, "subject")) for text in _texts(ctx.subject))


def _texts(column: Any) -> Sequence[str]:
    """Return cells as text; missing ones as an empty text."""
    return [
        "" if missing else str(cell) for cell, missing in zip(column, column.isna(), strict=True)
    ]
