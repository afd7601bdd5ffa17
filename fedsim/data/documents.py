"""Documents, one JSON object a line, as `mongoexport` writes them: fields by dotted path."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from fedsim.data._lines import ENDINGS, JsonLines
from fedsim.data._storage import check_no_secrets, listed, open_storage
from fedsim.data._stored import pooled_rows
from fedsim.data._survey import Wanted, wanted_by
from fedsim.data._types import Dataset, RawTable

__all__ = ["Documents"]


@dataclass(frozen=True, slots=True)
class Documents:
    """With `partition.name=natural`, each client reads its own lines, and nobody all of them.

    `path`: a .jsonl, .ndjson or .json file, also .gz, or a folder of them: a path or a URL.
    `target`, `client` (`partition.by` sets it) and `features` are paths of fields, as
    `patient.age` or `visits.0.pulse`; without `features`, all fields that any document has, but
    `_id`. A field that a document lacks is an empty cell. Types of MongoDB's extended JSON
    (`$oid`, `$date`, `$numberLong`, `$numberDecimal`, ...) are read; dates become seconds. The rest
    as in `parquet`.
    """

    path: str = ""
    target: str = ""
    client: str | None = None
    features: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    task: Literal["auto", "classification", "binary", "regression"] = "auto"
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    test_rows: Annotated[int, Ge(1)] = 10_000
    missing: Literal["refuse", "drop", "mean"] = "refuse"
    options: Mapping[str, Any] = field(default_factory=dict)

    files: ClassVar = ()
    facts: ClassVar = {"task": "any", "examples": "your own", "licence": "your own"}

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a key or password in the address or the options."""
        check_no_secrets(self.path, self.options)

    def wanted(self) -> Wanted:
        """Return what is asked of the data set."""
        return wanted_by(self, Path(self.path).name)

    def store(self) -> JsonLines:
        """Find the files. Raises what `open_storage` and `listed` raise."""
        storage = open_storage(self.path, self.options)
        return JsonLines(storage, tuple(listed(storage, ENDINGS)), self.wanted())

    def load(self, data_dir: Path | None) -> Dataset:
        """Read everything into memory, to be dealt out. Raises what `open_stored` raises."""
        return self.frames(data_dir).dataset

    def frames(self, data_dir: Path | None) -> RawTable:
        """Read everything into memory, with its rows as they are. Raises what `load` raises."""
        return pooled_rows(self)
