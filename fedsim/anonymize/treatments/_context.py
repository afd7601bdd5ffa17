"""What a treatment is, and what it may know beside the column itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedsim.anonymize.pseudonym_keys import PseudonymKeys, no_key
from fedsim.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ColumnContext", "Treatment"]


@dataclass(frozen=True, slots=True, eq=False)
class ColumnContext:
    """What surrounds a column.

    `name`: of the column. `keys`: for what is keyed. `subject`: whose row each is, aligned with the
    column. `seed`: for choices that need not be secret. `row_values`: the columns with identifiers
    of the record itself, which free text is searched for. `processes`: how many may be used.
    """

    name: str
    keys: PseudonymKeys | None = None
    subject: "pd.Series | None" = None
    seed: int | None = None
    row_values: Mapping[str, "pd.Series"] = field(default_factory=dict)
    processes: int = 1

    def key(self, purpose: str, domain: str) -> bytes:
        """Return the key of a purpose. Raises `ConfigError` where there are no keys."""
        if self.keys is None:
            raise ConfigError([no_key(f"columns.{self.name}.treatment", purpose)])
        return self.keys.key(purpose, domain)

    def refused(self, accepted: str, row: object = None) -> DataError:
        """Return the error of a cell that cannot be treated; the cell itself is not shown."""
        label = repr(row) if isinstance(row, str) else str(row)  # NumPy's numbers name their type
        where = f"column {self.name!r}" + ("" if row is None else f", row {label}")
        return DataError(f"{where}: {accepted}")

    def misses(self, field: str, accepted: str) -> ConfigError:
        """Return the error of a treatment that lacks something around its column."""
        return ConfigError([Problem(f"columns.{self.name}.{field}", None, accepted)])


class Treatment(Protocol):
    """What is done to a column; see the package."""

    is_streaming: ClassVar[bool]
    roles: ClassVar[tuple[str, ...]]

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the treated column: a new one, of the same index."""
