"""Runs written and read: the only module that talks to the database."""

import dataclasses
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, delete, event, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from fedsim.core import RoundRecord
from fedsim.errors import SetupError, UnknownRunError
from fedsim.registry import suggest
from fedsim.store._tables import (
    SCHEMA_VERSION,
    Base,
    ClientRow,
    RoundRow,
    RunRow,
    VersionRow,
)

__all__ = ["RunStore", "StoredRun"]

_BATCH = 5000  # client rows per statement


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as stored. `rounds` has one dict per round; clients are read by `RunStore.clients`."""

    id: str
    name: str
    status: str
    created: str
    finished: str
    config: dict[str, Any]
    environment: dict[str, Any]
    partition: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]
    folder: Path
    rounds: list[dict[str, Any]] = field(default_factory=list)


class RunStore:
    """Runs in a folder with a SQLite file, or in the database of a URL with files in that folder.

    `place`: a folder, a SQLAlchemy URL, or None for `FEDSIM_RUNS` or `runs`. With a URL the runs'
    files (models, checkpoints, reports, logs) are in `FEDSIM_RUN_FILES` or `runs`.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        """Open the store; makes the folder and the tables where they are missing.

        Raises `SetupError` when it cannot be opened or belongs to a newer fedsim.
        """
        text = str(place or os.environ.get("FEDSIM_RUNS") or "runs")
        is_url = "://" in text
        self.root = Path(os.environ.get("FEDSIM_RUN_FILES", "runs") if is_url else text).absolute()
        self.url = text if is_url else f"sqlite:///{self.root / 'fedsim.db'}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"cannot make the runs folder {self.root}: {error.strerror}. Choose another with "
                "--runs or FEDSIM_RUNS"
            ) from error
        if not is_url:
            self.preflight(0)  # SQLite's own message for a read-only folder says nothing
        self._engine = _engine(self.url)
        with self._errors():
            self._prepare()

    def preflight(self, size_bytes: int) -> None:
        """Raise `SetupError` unless the folder can be written and has room for a run's files."""
        probe = self.root / f".write-test-{os.getpid()}"
        try:
            probe.write_bytes(b"fedsim")
            probe.unlink()
        except OSError as error:
            raise SetupError(
                f"cannot write to {self.root}: {error.strerror}. Make it writable, free some space, "
                "or choose another folder with --runs or FEDSIM_RUNS"
            ) from error
        free = shutil.disk_usage(self.root).free
        if free < size_bytes:
            raise SetupError(
                f"{self.root} has {free / 2**20:.0f} MiB free; this run needs about "
                f"{size_bytes / 2**20:.0f} MiB for its checkpoints and records"
            )

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run's files."""
        return self.root / run_id

    def create(
        self,
        name: str,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        partition: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> str:
        """Begin a run; return its id: sortable by time, short, never used before."""
        now = datetime.now(UTC)
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40] or "run"
        run_id = f"{now:%Y%m%d-%H%M%S}-{safe}-{secrets.token_hex(2)}"
        values = {"config": config, "environment": environment, "partition": partition}
        row = {key: _json(value) for key, value in {**values, "facts": facts}.items()}
        with self._errors():
            self.folder(run_id).mkdir()
            with Session(self._engine) as session, session.begin():
                created = now.isoformat(timespec="seconds")
                session.add(
                    RunRow(id=run_id, name=name, status="running", created=created, **row)
                )
        return run_id

    def append(self, run_id: str, record: RoundRecord) -> None:
        """Write a round and its clients in one transaction: all of it, or nothing."""
        done = [c for c in record.clients if c.phase == "train" and not c.lost]
        lost = [c for c in record.clients if c.lost]
        clients = [
            {
                "run_id": run_id,
                "round": record.round,
                "phase": client.phase,
                "client": client.client,
                "weight": client.weight,
                "metrics": _json(client.metrics),
                "real_seconds": client.real_seconds,
                "bytes_down": client.bytes_down,
                "bytes_up": client.bytes_up,
                "lost": client.lost,
            }
            for client in record.clients
        ]
        with self._errors(), Session(self._engine) as session, session.begin():
            session.add(
                RoundRow(
                    run_id=run_id,
                    round=record.round,
                    metrics=_json(record.metrics),
                    seconds=_json(record.seconds),
                    real_seconds=record.real_seconds,
                    cohort=record.cohort,
                    results=len(done),
                    lost=len(lost),
                    bytes_down=record.bytes_down,
                    bytes_up=record.bytes_up,
                    model_sha256=record.model_sha256,
                )
            )
            for start in range(0, len(clients), _BATCH):
                session.execute(insert(ClientRow), clients[start : start + _BATCH])

    def truncate(self, run_id: str, after_round: int) -> None:
        """Drop the rounds after one: those that no checkpoint covers."""
        with self._errors(), Session(self._engine) as session, session.begin():
            for table in (ClientRow, RoundRow):
                session.execute(
                    delete(table).where(table.run_id == run_id, table.round > after_round)
                )

    def set_status(self, run_id: str, status: str) -> None:
        """Set a run's status."""
        with self._errors(), Session(self._engine) as session, session.begin():
            session.execute(update(RunRow).where(RunRow.id == run_id).values(status=status))

    def finish(self, run_id: str, status: str, summary: Mapping[str, Any]) -> None:
        """Record how a run ended and what it came to."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = {"status": status, "finished": now, "summary": _json(summary)}
        with self._errors(), Session(self._engine) as session, session.begin():
            session.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    def get(self, run: str) -> StoredRun:
        """Return a run by id, by the beginning of its id, by name (its latest), or "last".

        Raises `UnknownRunError`.
        """
        with self._errors(), Session(self._engine) as session:
            row = session.get(RunRow, self._identify(session, run))
            assert row is not None
            rounds = session.scalars(
                select(RoundRow).where(RoundRow.run_id == row.id).order_by(RoundRow.round)
            )
            return self._stored(row, [_columns(entry) for entry in rounds])

    def all(self) -> list[StoredRun]:
        """Return all runs, oldest first, without their rounds."""
        with self._errors(), Session(self._engine) as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.created, RunRow.id))
            return [self._stored(row, []) for row in rows]

    def clients(
        self, run_id: str, *, round: int | None = None, phase: str | None = None
    ) -> list[dict[str, Any]]:
        """Return client rows, of one round or phase or of all, in order."""
        query = select(ClientRow).where(ClientRow.run_id == run_id)
        if round is not None:
            query = query.where(ClientRow.round == round)
        if phase is not None:
            query = query.where(ClientRow.phase == phase)
        return self._clients(query)

    def lost_clients(self, run_id: str, most: int = 1000) -> list[dict[str, Any]]:
        """Return the rows of lost clients, earliest first."""
        query = select(ClientRow).where(ClientRow.run_id == run_id, ClientRow.lost != "")
        return self._clients(query.limit(most))

    def delete(self, run_id: str) -> None:
        """Delete a run, its rows and its files."""
        with self._errors(), Session(self._engine) as session, session.begin():
            for table in (ClientRow, RoundRow):
                session.execute(delete(table).where(table.run_id == run_id))
            session.execute(delete(RunRow).where(RunRow.id == run_id))
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _clients(self, query: Any) -> list[dict[str, Any]]:
        order = query.order_by(ClientRow.round, ClientRow.phase.desc(), ClientRow.client)
        with self._errors(), Session(self._engine) as session:
            return [_columns(row) for row in session.scalars(order)]

    def _identify(self, session: Session, run: str) -> str:
        newest = select(RunRow.id).order_by(RunRow.created.desc(), RunRow.id.desc())
        ids = list(session.scalars(newest))
        if run == "last" and ids:
            return ids[0]
        if run in ids:
            return run
        matching = [i for i in ids if i.startswith(run)] if run else []
        if len(matching) == 1:
            return matching[0]
        named = session.scalars(newest.where(RunRow.name == run)).first()
        if named:
            return named
        if len(matching) > 1:
            raise UnknownRunError(f"{run!r} begins {len(matching)} runs: {', '.join(matching[:5])}")
        names = [*ids, *session.scalars(select(RunRow.name).distinct())]
        hint = suggest(run, names)
        raise UnknownRunError(
            f"no run {run!r} in {self.root}. {hint or 'List them with: fedsim runs list'}"
        )

    def _stored(self, row: RunRow, rounds: list[dict[str, Any]]) -> StoredRun:
        columns = _columns(row)
        return StoredRun(**columns, folder=self.folder(row.id), rounds=rounds)

    def _prepare(self) -> None:
        """Make the tables; two processes may do so at once."""
        for attempt in range(5):
            try:
                if not inspect(self._engine).has_table(VersionRow.__tablename__):
                    Base.metadata.create_all(self._engine)
                with Session(self._engine) as session, session.begin():
                    found = session.scalars(select(VersionRow.version)).first()
                    if found is None:
                        session.add(VersionRow(version=SCHEMA_VERSION))
                break
            except (IntegrityError, DBAPIError):
                if attempt == 4:
                    raise
                time.sleep(0.2 * (attempt + 1))
        if found is not None and found > SCHEMA_VERSION:
            raise SetupError(
                f"the run store {self.url} has version {found}, this fedsim reads up to "
                f"{SCHEMA_VERSION}: use a newer fedsim or another store"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what a database or a disk says into what a user can act on."""
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise SetupError(
                f"the run store {_shown(self.url)} failed: {reason}. If its disk is full or "
                "read-only, mend that and resume the run; nothing already stored is lost"
            ) from error
        except OSError as error:
            raise SetupError(f"cannot write to {self.root}: {error.strerror or error}") from error


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            # Write-ahead: readers never wait. Synchronous NORMAL with WAL never corrupts, and a
            # round lost to a power cut is one that resume drops and runs again.
            for setting in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {setting}")

    return engine


def _shown(url: str) -> str:
    """Return a URL without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else url


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).columns}


def _json(value: Any) -> Any:
    """Make a value JSON-able: NaN and infinity become null, tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json(dataclasses.asdict(value))
    return value
