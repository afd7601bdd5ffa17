"""The rows of a database query, by client: SQLite, PostgreSQL and what else SQLAlchemy speaks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from fedsim.data._query import Query, check_no_password, check_query
from fedsim.data._stored import pooled_rows
from fedsim.data._survey import Wanted, wanted_by
from fedsim.data._types import Dataset, RawTable
from fedsim.errors import ConfigError, Problem

__all__ = ["Sql"]


@dataclass(frozen=True, slots=True)
class Sql:
    """With `partition.name=natural`, each client asks for its own rows, and nobody for all of them.

    `url`: of the database, as SQLAlchemy writes it, without a password: `password` says where that
    is, `env:NAME` or `file:PATH`. `query`: a SELECT with the target, the features and the column
    that names the client (`client`; `partition.by` sets it); it is only read. Values that are bytes
    are images. The rest as in `parquet`.
    """

    url: str = ""
    query: str = ""
    target: str = ""
    password: str = ""
    client: str | None = None
    features: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    task: Literal["auto", "classification", "binary", "regression"] = "auto"
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    test_rows: Annotated[int, Ge(1)] = 10_000
    missing: Literal["refuse", "drop", "mean"] = "refuse"

    files: ClassVar = ()
    facts: ClassVar = {"task": "any", "examples": "your own", "licence": "your own"}

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a password that would be kept with the experiment."""
        check_no_password(self.url, self.password)

    def wanted(self) -> Wanted:
        """Return what is asked of the database."""
        where = self.url.rsplit("/", 1)[-1].split("?")[0]
        return wanted_by(self, where or "the database")

    def store(self) -> Query:
        """Return the query; nothing is asked yet. Raises `ConfigError` for what is none."""
        if not self.url:
            accepted = "the address of a database, as sqlite:///rows.db"
            raise ConfigError([Problem("data.url", self.url, accepted)])
        return Query(self.url, self.password, check_query(self.query), self.wanted())

    def load(self, data_dir: Path | None) -> Dataset:
        """Read everything into memory, to be dealt out. Raises what `open_stored` raises."""
        return self.frames(data_dir).dataset

    def frames(self, data_dir: Path | None) -> RawTable:
        """Read everything into memory, with its rows as they are. Raises what `load` raises."""
        return pooled_rows(self)
