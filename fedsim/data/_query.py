"""The rows of a database query as a store of rows: the database picks out a client's own.

Everything runs in transactions that only read. Clients are found by counting, and a client's rows
are asked for with its name as a bound parameter, never as text of the query.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._rows import Block, column_of, text_of
from fedsim.data._survey import Wanted
from fedsim.errors import (
    ConfigError,
    DataError,
    MissingDataError,
    NetworkError,
    Problem,
    SetupError,
)
from fedsim.files import from_home

__all__ = ["Query", "check_no_password", "check_query"]

_AT_ONCE = 8_192  # rows fetched at a time
_ALIAS = "fedsim_rows"
_SECRET = re.compile(r"passw|pwd|secret|token|sslkey", re.IGNORECASE)
_UNSHOWN = "the experiment"  # in place of the text that was given, which has the password in it
_KEYS_GO = (
    "Say where it is with data.password, env:NAME or file:PATH, or leave it to the database's own "
    "client (for PostgreSQL: PGPASSWORD, ~/.pgpass)."
)


def check_no_password(url: str, password: str) -> None:
    """Raise `ConfigError` for an address with a password in it, which is not shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    problems = []
    try:
        address = make_url(url) if url else None
    except (ArgumentError, ValueError):
        accepted = "DIALECT://USER@HOST/DATABASE, as sqlite:///rows.db or postgresql+psycopg://..."
        raise ConfigError([Problem("data.url", "...", accepted, source=_UNSHOWN)]) from None
    if address is not None and (address.password or any(map(_SECRET.search, address.query))):
        shown = address.set(password=None, query={}).render_as_string()
        accepted = "an address without a password: an experiment is kept with every run"
        problems.append(Problem("data.url", shown, accepted, _KEYS_GO, _UNSHOWN))
    if password and not password.startswith(("env:", "file:")):
        where = "env:NAME or file:PATH"
        problems.append(Problem("data.password", "...", where, _KEYS_GO, _UNSHOWN))
    if problems:
        raise ConfigError(problems)


def check_query(query: str) -> str:
    """Return a query without a semicolon at its end. Raises `ConfigError` for what is none.

    A semicolon within could end the query, and with it the transaction that only reads.
    """
    text = query.strip().rstrip(";").strip()
    if not re.match(r"(select|with)\b", text, re.IGNORECASE) or ";" in text:
        accepted = "one query: SELECT ... or WITH ... SELECT ..., without a semicolon"
        raise ConfigError([Problem("data.query", query, accepted)])
    return text


@dataclass(frozen=True)
class Query:
    """A query of a database. `counts`: what `_counted` returned, once it was asked."""

    url: str
    password: str
    query: str
    wanted: Wanted
    counts: dict[str | None, tuple[Any, int]] = field(default_factory=dict)

    def stamp(self) -> Any:
        """Return the query and how many rows each client has; their contents it cannot tell."""
        by_client = sorted((str(name), n) for name, (_, n) in self._counted().items())
        return [self.url, self.query, by_client]

    def scan(self) -> Iterator[tuple[Block, NDArray[np.int64]]]:
        """Read all rows through a cursor of the server, some thousands at a time."""
        from sqlalchemy import select

        with self._connected() as connection:
            table = self._table(connection)
            columns = self.wanted.columns(table.c.keys())
            wanted = select(*(table.c[name] for name in columns))
            for block in self._blocks(connection, wanted, columns):
                yield block, np.zeros((len(block[columns[0]]), 0), np.int64)

    def read(self, client: str, places: NDArray[np.int64]) -> Iterator[Block]:
        """Read one client's rows; `places` is empty, a database finds them itself."""
        from sqlalchemy import bindparam, select

        raw, _ = self._counted().get(client, (client, 0))
        with self._connected() as connection:
            table = self._table(connection)
            columns = self.wanted.columns(table.c.keys())
            owner = table.c[str(self.wanted.client)]
            own = select(*(table.c[name] for name in columns)).where(
                owner == bindparam("client", raw)
            )
            yield from self._blocks(connection, own, columns)

    def extras(self) -> Mapping[str, NDArray[Any]]:
        """Return nothing: what reading needs is counted each time."""
        return {}

    def with_extras(self, extras: Mapping[str, NDArray[Any]]) -> "Query":
        """Return the query as it is."""
        return self

    def _counted(self) -> dict[str | None, tuple[Any, int]]:
        """Return by client its name as the database has it, which may be a number, and its rows."""
        from sqlalchemy import func, select

        if self.counts:
            return self.counts
        with self._connected() as connection:
            table = self._table(connection)
            self.wanted.columns(table.c.keys())
            owner = table.c[self.wanted.client] if self.wanted.client else None
            counted = select(func.count()).select_from(table)
            if owner is not None:
                counted = select(owner, func.count()).group_by(owner)
            for *name, count in connection.execute(counted):
                text = _as_text(name[0]) if name else ""
                if text in self.counts:
                    raise DataError(f"column {self.wanted.client!r} has two values like {text!r}")
                self.counts[text] = (name[0] if name else "", count)
        return self.counts

    def _table(self, connection: Any) -> Any:
        """Return the user's query as something to select from, with the columns it gives."""
        from sqlalchemy import column, text

        # No statement of ours is built of text but this one, the user's own.
        escaped = self.query.replace(":", r"\:") + "\n"  # it may end in a comment
        given = connection.execute(text(f"SELECT * FROM ({escaped}) AS {_ALIAS} WHERE 1 = 0"))
        names = list(given.keys())
        given.close()
        if len(set(names)) < len(names):
            accepted = f"a query whose columns have different names; it gives {', '.join(names)}"
            raise ConfigError([Problem("data.query", self.query, accepted)])
        return text(escaped).columns(*map(column, names)).subquery(_ALIAS)

    def _blocks(self, connection: Any, statement: Any, columns: tuple[str, ...]) -> Iterator[Block]:
        rows = connection.execution_options(yield_per=_AT_ONCE).execute(statement)
        for part in rows.partitions():
            values = zip(*part, strict=True)
            yield {name: column_of(own, name) for name, own in zip(columns, values, strict=True)}

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Connect to read; a failure is told in the user's terms, without the password."""
        from sqlalchemy import exc

        try:
            engine = _engine(self.url, self.password)
            with engine.connect() as connection:
                yield _only_reading(connection)
        except (exc.NoSuchModuleError, ImportError) as error:
            raise SetupError(f"data.url = {self.url!r} needs a driver: {_line(error)}") from error
        except exc.OperationalError as error:
            raise _unreached(self.url, error) from error
        except exc.DBAPIError as error:
            accepted = f"a query that the database can answer: {_line(error.orig or error)}"
            raise ConfigError([Problem("data.query", self.query, accepted)]) from error


def _engine(url: str, password: str) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        file = Path(address.database or "")
        if not file.is_file():
            raise MissingDataError(f"data.url = {url!r}: there is no such database file")
        return create_engine(
            f"sqlite:///file:{file.absolute()}?mode=ro&uri=true", poolclass=NullPool
        )
    if password:
        address = address.set(password=_secret(password))
    return create_engine(address, poolclass=NullPool)


def _only_reading(connection: Any) -> Any:
    """Make a connection's transaction one that reads, and sees the same all the time."""
    from sqlalchemy import text

    dialect = connection.dialect.name
    if dialect == "sqlite":
        connection.execute(text("PRAGMA query_only = ON"))
    elif dialect == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    elif dialect in ("mysql", "mariadb"):
        connection.rollback()
        connection.execute(text("SET TRANSACTION READ ONLY"))
    return connection


def _secret(place: str) -> str:
    kind, _, name = place.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise SetupError(f"data.password = {place!r}: there is no environment variable {name}")
        return os.environ[name]
    try:
        return from_home(name).read_text().strip()
    except OSError as error:
        raise SetupError(f"data.password = {place!r}: {error.strerror}") from error


def _unreached(url: str, error: Any) -> Exception:
    message = _line(error.orig or error)
    if re.search(r"no such (table|column)|syntax error|readonly|read-only", message):
        return ConfigError([Problem("data.query", "...", f"a query that can be read: {message}")])
    return NetworkError(f"data.url = {url!r} cannot be reached: {message}. {_KEYS_GO}")


def _as_text(name: Any) -> str | None:
    text: str | None = text_of(column_of([name], "client"))[0]
    return text


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
