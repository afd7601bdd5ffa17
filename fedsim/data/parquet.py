"""Parquet and Arrow data sets where they are: `data.path=s3://bucket/patients`, by client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from fedsim.data._parquet import ENDINGS, ArrowFiles
from fedsim.data._storage import check_no_secrets, listed, open_storage
from fedsim.data._stored import pooled_rows
from fedsim.data._survey import Wanted, wanted_by
from fedsim.data._types import Dataset, RawTable

__all__ = ["Parquet"]


@dataclass(frozen=True, slots=True)
class Parquet:
    """With `partition.name=natural`, each client reads its own rows, and nobody all of them.

    `path`: a file, or a folder with any number of files below it, also in folders like
    `hospital=north`: a path or a URL (s3, gs, abfs, hdfs, fsspec's). `target`: the column to
    predict. `client`: the column, or folder, that names the client (`partition.by` sets it).
    `features`: the input columns, all others when unset; fields of structs are `address.city`. A
    single column of lists, or of images (PNG, JPEG), keeps its shape, or is given another by
    `shape`. `test`: the share of every client's rows that is its test part; the server tests on
    `test_rows` of these. `task` and `missing` as in `table`. `options`: of the file system, as
    `region` and `endpoint_override` of S3; keys come from the environment.
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

    def store(self) -> ArrowFiles:
        """Find the files. Raises what `open_storage` and `listed` raise."""
        storage = open_storage(self.path, self.options)
        return ArrowFiles(storage, tuple(listed(storage, ENDINGS)), self.wanted())

    def load(self, data_dir: Path | None) -> Dataset:
        """Read everything into memory, to be dealt out. Raises what `open_stored` raises."""
        return self.frames(data_dir).dataset

    def frames(self, data_dir: Path | None) -> RawTable:
        """Read everything into memory, with its rows as they are. Raises what `load` raises."""
        return pooled_rows(self)
