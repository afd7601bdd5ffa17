"""The database behind a run store: opened, its tables made or checked, its errors explained."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from fedsim.errors import SetupError
from fedsim.store._tables import SCHEMA_VERSION, Base, VersionRow

__all__ = ["explained", "open_engine", "prepare", "shown"]

_WAIT_S = 60  # how long a process waits for others that write to the same SQLite file
_LOCK = 0x66656473696D  # "fedsim": PostgreSQL's advisory lock while the tables are made

#: (words in what the database says, what the user can do)
_ADVICE = (
    (("full", "disk i/o", "no space", "file too large"), "Free some space"),
    (("readonly", "read-only", "unable to open", "permission"), "Make it writable"),
    (("locked",), "Another process has been writing to it for long; wait for it to end"),
    (("connect", "refused", "password", "authentication", "could not translate", "does not exist"),
     "Check the URL, and that the server runs and lets you in"),
    (("not a database", "malformed"), "Choose another folder, or restore the file from a backup"),
)  # fmt: skip


def open_engine(place: str | URL) -> Engine:
    """Return the engine of a URL; a bare `postgresql://` takes the driver that fedsim installs.

    Raises `SetupError` for a URL that is none, a kind that is not supported, a missing driver.
    """
    url = _url(place)
    try:
        # No pool: rounds can be hours apart, and a connection must not be carried into a fork.
        engine = create_engine(url, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"{shown(place)} needs the package {error.name!r}: pip install 'fedsim[postgresql]'"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    return engine


def prepare(engine: Engine) -> None:
    """Make the tables in an empty database; check the version of one that has them.

    A database of an older version gets the tables it lacks. Any number of processes may do this at
    once. Raises `SetupError` for a database of a newer fedsim, or of another program.
    """
    if not inspect(engine).has_table(VersionRow.__tablename__):
        _create(engine)
    found = _version(engine)
    if found is not None and found < SCHEMA_VERSION:
        _upgrade(engine)
        found = _version(engine)
    if found != SCHEMA_VERSION:
        raise SetupError(
            f"the run store {shown(engine.url)} has version {found} of the tables, this fedsim "
            f"knows {SCHEMA_VERSION}: use the fedsim that wrote it, or another store with --runs"
        )


@contextmanager
def explained(place: str | URL) -> Iterator[None]:
    """Turn what a database says into a `SetupError` that names a way out."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        advice = next(
            (advice for words, advice in _ADVICE if any(w in reason.lower() for w in words)),
            "See what it says",
        )
        raise SetupError(
            f"the run store {shown(place)} failed: {reason}. {advice}, or choose another store "
            "with --runs or FEDSIM_RUNS. What is stored already is kept; runs can be resumed"
        ) from error


def shown(place: str | URL) -> str:
    """Return a URL without its password; of SQLite, only the file.

    >>> shown("postgresql://me:secret@host/fedsim")
    'postgresql://me:***@host/fedsim'
    """
    try:
        url = make_url(place)
    except ArgumentError:
        return str(place).rpartition("@")[2]
    is_file = url.drivername.startswith("sqlite") and url.database
    return str(url.database) if is_file else url.render_as_string(hide_password=True)


def _url(place: str | URL) -> URL:
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise SetupError(
            f"the run store {shown(place)!r} is not a URL: give a folder, or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from error
    kind = url.drivername.partition("+")[0]
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "postgresql":
        return url
    if kind != "sqlite":
        raise SetupError(
            f"the run store {shown(place)!r} is of kind {kind!r}: fedsim stores runs in a folder "
            "(SQLite) or in postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    if url.database in (None, "", ":memory:"):
        raise SetupError("a run store in memory would be lost at once: give a folder")
    return url


def _configure_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    """Write ahead, so that readers never wait; wait for other writers; check foreign keys.

    `synchronous` stays FULL: a round is on the disk before the checkpoint that says it is done.
    """
    connection.execute(f"PRAGMA busy_timeout={_WAIT_S * 1000}")
    connection.execute("PRAGMA foreign_keys=ON")
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            # Processes that turn one new file to WAL at once are refused without any waiting.
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _version(engine: Engine) -> int | None:
    with Session(engine) as session:
        return session.scalars(select(func.max(VersionRow.version))).one()


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction in which one process makes tables while others wait."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _upgrade(engine: Engine) -> None:
    """Add the tables that came with later versions; none that was there has changed so far."""
    with _alone(engine) as connection:
        if connection.scalar(select(func.max(VersionRow.version))) == SCHEMA_VERSION:
            return
        Base.metadata.create_all(connection)
        connection.execute(insert(VersionRow).values(version=SCHEMA_VERSION))


def _create(engine: Engine) -> None:
    with _alone(engine) as connection:
        existing = set(inspect(connection).get_table_names())
        if VersionRow.__tablename__ in existing:
            return
        if foreign := sorted(existing & set(Base.metadata.tables)):
            raise SetupError(
                f"the database {shown(engine.url)} has tables of another program that fedsim would "
                f"use ({', '.join(foreign)}): give fedsim a database of its own"
            )
        Base.metadata.create_all(connection)
        connection.execute(insert(VersionRow).values(version=SCHEMA_VERSION))
