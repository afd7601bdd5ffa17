"""The treatments of a table's columns, applied piece by piece."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsim.anonymize.files import TableFile, as_frame, chunks
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.schema import Role, Schema
from fedsim.anonymize.treatments._context import ColumnContext

__all__ = ["Treater", "frames", "is_dropped", "kept", "treater"]


@dataclass(frozen=True, eq=False)
class Treater:
    """Applies the treatments of a schema; `whole` are columns that had to be treated at once.

    `processes`: how many may be used for what takes long.
    """

    schema: Schema
    keys: PseudonymKeys | None = None
    seed: int | None = None
    whole: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1

    def apply(self, name: str, frame: Any) -> Any:
        """Return a column of a piece as it is after its treatment; untreated ones as they are.

        The index of `frame` numbers rows from 1 over the whole table.
        """
        treatment = self.schema.columns[name].treatment
        if treatment is None:
            return frame[name]
        if name in self.whole:
            return self.whole[name].loc[frame.index]
        return treatment.apply(frame[name], self._context(name, frame))

    def _context(self, name: str, frame: Any) -> ColumnContext:
        subject = self.schema.subject
        return ColumnContext(
            name,
            self.keys,
            frame[subject] if subject in frame.columns else None,
            self.seed,
            {
                other: frame[other]
                for other in self.schema.having("direct")
                if other != name and other in frame.columns
            },
            self.processes,
        )


def treater(
    table: TableFile,
    schema: Schema,
    keys: PseudonymKeys | None,
    seed: int | None,
    processes: int = 1,
    advance: Callable[[float], None] | None = None,
) -> Treater:
    """Return what treats a table; columns that cannot be treated in pieces are treated here."""
    import pandas as pd

    alone = Treater(schema, keys, seed, processes=processes)
    whole = {}
    for name, column in schema.columns.items():
        if column.treatment is None or column.treatment.is_streaming:
            continue
        pieces = list(frames(table, schema, advance))
        if pieces:
            whole[name] = alone.apply(name, pd.concat(pieces))
    return Treater(schema, keys, seed, whole, processes)


def frames(table: TableFile, schema: Schema, advance: Callable[[float], None] | None = None) -> Any:
    """Yield a table as pandas frames whose index numbers rows from 1."""
    import pandas as pd

    first = 1
    for batch in chunks(table, advance=advance):
        frame = as_frame(batch, schema.empty)
        frame.index = pd.RangeIndex(first, first + len(frame))
        yield frame
        first += len(frame)


def kept(schema: Schema, role: Role) -> tuple[str, ...]:
    """Return the columns of a role that are not dropped."""
    return tuple(name for name in schema.having(role) if not is_dropped(schema, name))


def is_dropped(schema: Schema, name: str) -> bool:
    """Say whether a column is left out: a direct identifier without a treatment, or by one."""
    column = schema.columns[name]
    if column.treatment is None:
        return column.role == "direct"
    return bool(getattr(column.treatment, "is_dropped", False))
