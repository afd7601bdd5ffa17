"""Runs written and read: rows in a database, files in a folder."""

import fcntl
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Select, delete, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fedsim.errors import RunFailedError, SetupError, UnknownRunError
from fedsim.files import from_home
from fedsim.registry import suggest
from fedsim.store._database import explained, open_engine, prepare, shown
from fedsim.store._plain import finite, plain, text
from fedsim.store._tables import Base, ClientRow, LedgerRow, RoundRow, RunRow

if TYPE_CHECKING:  # core imports torch, and listing runs should not take seconds
    from fedsim.core import ClientRecord, RoundRecord

__all__ = ["RunStore", "StoredRun", "held"]

_ENCODER = json.JSONEncoder(allow_nan=False)
_BATCH = 5000  # client rows per statement
_CLIENTS = Base.metadata.tables["clients"]  # the table, not the class: no objects in between
_CLIENT_COLUMNS = [column for column in _CLIENTS.columns if column.name != "run_id"]
_CLIENT_ORDER = (ClientRow.round, ClientRow.phase.desc(), ClientRow.client)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as stored. `rounds` has one dict per round; clients are read by `RunStore.clients`.

    `status`: "running", "finished", "failed" or "interrupted". A run whose process was killed
    stays "running" until it is resumed.
    """

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
    """Runs in a folder with a SQLite file, or in the database of a URL with files in a folder.

    `place`: a folder, a SQLAlchemy URL, or None for `FEDSIM_RUNS` or `runs`. With a URL the runs'
    files (models, checkpoints, reports, logs) are in `FEDSIM_RUN_FILES` or `runs`. Any number of
    processes may write different runs to one store at once.
    """

    def __init__(self, place: str | Path | None = None) -> None:
        """Open the store; makes the folder and the tables where they are missing.

        Raises `SetupError` when it cannot be opened or belongs to another version of fedsim.
        """
        given = str(place or os.environ.get("FEDSIM_RUNS") or "runs")
        is_url = "://" in given
        folder = os.environ.get("FEDSIM_RUN_FILES", "runs") if is_url else given
        self.root = from_home(folder).absolute()
        file = str(self.root / "fedsim.db")
        self.url: str | URL = given if is_url else URL.create("sqlite", database=file)
        with self._files():
            self.root.mkdir(parents=True, exist_ok=True)
            if not is_url:
                # SQLite's own message for a read-only folder says nothing. Nothing is written
                # into the file: runs can be listed and deleted when the disk is full.
                self._probe(b"")
        self._engine = open_engine(self.url)
        with explained(self.url):
            prepare(self._engine)

    def preflight(self, size_bytes: int) -> None:
        """Raise `SetupError` unless the folder can be written and has room for a run's files."""
        with self._files():
            self._probe(b"fedsim")
        free = shutil.disk_usage(self.root).free
        if free < size_bytes:
            raise SetupError(
                f"{self.root} has {free / 2**20:.0f} MiB free; this run needs about "
                f"{size_bytes / 2**20:.0f} MiB for its checkpoints and records. Free some space "
                "(fedsim runs delete RUN), or choose another folder with --runs or FEDSIM_RUNS"
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
        """Begin a run and make its folder; return its id: sortable by time, never used before."""
        now = datetime.now(UTC)
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in text(name))[:40] or "run"
        run_id = f"{now:%Y%m%d-%H%M%S}-{safe}-{secrets.token_hex(2)}"
        row = RunRow(
            id=run_id,
            name=text(name),
            status="running",
            created=now.isoformat(timespec="microseconds"),
            config=plain(config),
            environment=plain(environment),
            partition=plain(partition),
            facts=plain(facts),
        )
        with self._write() as session:
            session.add(row)
            session.flush()
            with self._files():
                self.folder(run_id).mkdir()
        return run_id

    def append(self, run_id: str, record: "RoundRecord") -> None:
        """Write a round and its clients in one transaction: all of it, or nothing.

        Raises `UnknownRunError`, and `RunFailedError` when the round is there already.
        """
        clients = _client_columns(run_id, record.round, record.clients)
        with self._write() as session:
            try:
                session.add(_round_row(run_id, record))
                session.flush()
                _insert_clients(session.connection(), clients)
            except IntegrityError as error:
                self._must_exist(run_id)
                raise RunFailedError(
                    f"round {record.round} of run {run_id} cannot be stored "
                    f"({_reason(error)}): it is there already. Is another process writing the "
                    "same run?"
                ) from error

    def truncate(self, run_id: str, after_round: int) -> None:
        """Drop the rounds after one: those that no checkpoint covers. Raises `UnknownRunError`.

        What they spent stays in the ledger: it was spent.
        """
        self._must_exist(run_id)
        with self._write() as session:
            for table in (ClientRow, RoundRow):
                session.execute(
                    delete(table).where(table.run_id == run_id, table.round > after_round)
                )

    def set_status(self, run_id: str, status: str, facts: Mapping[str, Any] = {}) -> None:
        """Set a run's status, and add `facts` that became known only after it had begun.

        Raises `UnknownRunError`.
        """
        values: dict[str, Any] = {"status": status}
        if facts:
            values["facts"] = {**self.get(run_id).facts, **plain(facts)}
        self._change(run_id, values)

    def finish(self, run_id: str, status: str, summary: Mapping[str, Any]) -> None:
        """Record how a run ended and what it came to; of one that had finished, what else it did.

        Raises `UnknownRunError`.
        """
        values = {"status": status, "summary": plain(summary)}
        if self.get(run_id).status != "finished":
            values["finished"] = datetime.now(UTC).isoformat(timespec="microseconds")
        self._change(run_id, values)

    def get(self, run: str) -> StoredRun:
        """Return a run by id, by name (its latest), by the beginning of its id, or "last".

        Raises `UnknownRunError`.
        """
        with self._read() as session:
            row = session.get(RunRow, self._identify(session, run))
            assert row is not None
            rounds = session.scalars(
                select(RoundRow).where(RoundRow.run_id == row.id).order_by(RoundRow.round)
            )
            return self._stored(row, [_columns(entry) for entry in rounds])

    def all(self) -> list[StoredRun]:
        """Return all runs, oldest first, without their rounds."""
        with self._read() as session:
            rows = session.scalars(select(RunRow).order_by(RunRow.created, RunRow.id))
            return [self._stored(row, []) for row in rows]

    def clients(
        self, run_id: str, *, round: int | None = None, phase: str | None = None
    ) -> list[dict[str, Any]]:
        """Return client rows, of one round or phase or of all, in order."""
        return [row for batch in self.client_batches(run_id, round, phase) for row in batch]

    def client_batches(
        self, run_id: str, round: int | None = None, phase: str | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Return the rows of `clients` in lists of a few thousand, for runs that fill memory."""
        query = select(*_CLIENT_COLUMNS).where(ClientRow.run_id == run_id)
        if round is not None:
            query = query.where(ClientRow.round == round)
        if phase is not None:
            query = query.where(ClientRow.phase == phase)
        return self._batches(query.order_by(*_CLIENT_ORDER))

    def lost_clients(self, run_id: str, most: int = 1000) -> list[dict[str, Any]]:
        """Return the rows of lost clients, earliest first."""
        query = select(*_CLIENT_COLUMNS).where(ClientRow.run_id == run_id, ClientRow.lost != "")
        ordered = query.order_by(*_CLIENT_ORDER).limit(most)
        return [row for batch in self._batches(ordered) for row in batch]

    def delete(self, run_id: str) -> None:
        """Delete a run, its rows and its files; what it spent stays in its data set's ledger.

        Raises `UnknownRunError`, `RunFailedError` while it is going on in another process.
        """
        self._must_exist(run_id)
        folder = self.folder(run_id)
        _refuse_if_running(folder, run_id)
        with self._write() as session:
            for table in (ClientRow, RoundRow, LedgerRow):
                session.execute(delete(table).where(table.run_id == run_id))
            session.execute(delete(RunRow).where(RunRow.id == run_id))
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return  # deleted by hand before
        except OSError as error:
            raise SetupError(
                f"run {run_id} is deleted, but not its folder {folder}: {error.strerror or error}. "
                "Delete that by hand"
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with explained(self.url), Session(self._engine) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with explained(self.url), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _files(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SetupError(
                f"cannot write to {self.root}: {error.strerror or error}. Make it writable, free "
                "some space, or choose another folder with --runs or FEDSIM_RUNS"
            ) from error

    def _probe(self, content: bytes) -> None:
        probe = self.root / f".write-test-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(content)
        finally:
            probe.unlink(missing_ok=True)

    def _change(self, run_id: str, values: dict[str, Any]) -> None:
        self._must_exist(run_id)
        with self._write() as session:
            session.execute(update(RunRow).where(RunRow.id == run_id).values(**values))

    def _must_exist(self, run_id: str) -> None:
        with self._read() as session:
            if session.get(RunRow, run_id) is None:
                raise UnknownRunError(f"no run {run_id!r} in {shown(self.url)}")

    def _batches(self, query: Select[Any]) -> Iterator[list[dict[str, Any]]]:
        with self._read() as session:
            options = {"yield_per": _BATCH}
            found = session.connection().execute(query, execution_options=options)
            for part in found.mappings().partitions():
                yield [dict(row) for row in part]

    def _identify(self, session: Session, run: str) -> str:
        newest = select(RunRow.id, RunRow.name).order_by(RunRow.created.desc(), RunRow.id.desc())
        found: list[tuple[str, str]] = [(row.id, row.name) for row in session.execute(newest)]
        ids = [run_id for run_id, _ in found]
        if run == "last" and ids:
            return ids[0]
        if run in ids:
            return run
        for run_id, name in found:
            if name == run:
                return run_id
        matching = [run_id for run_id in ids if run and run_id.startswith(run)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UnknownRunError(f"{run!r} begins {len(matching)} runs: {', '.join(matching[:5])}")
        hint = suggest(run, {word for pair in found for word in pair})
        raise UnknownRunError(
            f"no run {run!r} in {shown(self.url)}. {hint or 'List them with: fedsim runs list'}"
        )

    def _stored(self, row: RunRow, rounds: list[dict[str, Any]]) -> StoredRun:
        return StoredRun(**_columns(row), folder=self.folder(row.id), rounds=rounds)


@contextmanager
def held(store: RunStore) -> Iterator[None]:
    """Keep a store's file open: SQLite cleans up whenever the last connection to it is closed."""
    with explained(store.url):
        connection = store._engine.connect() if store._engine.dialect.name == "sqlite" else None
    try:
        yield
    finally:
        if connection is not None:
            connection.close()


def _refuse_if_running(folder: Path, run_id: str) -> None:
    """Raise when the process that runs it holds the lock in its folder."""
    with suppress(FileNotFoundError), (folder / "lock").open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailedError(
                f"run {run_id} is going on in another process: stop that first (Ctrl-C)"
            ) from None


def _round_row(run_id: str, record: "RoundRecord") -> RoundRow:
    done = sum(1 for client in record.clients if client.phase == "train" and not client.lost)
    return RoundRow(
        run_id=run_id,
        round=int(record.round),
        metrics=plain(record.metrics),
        seconds=plain(record.seconds),
        real_seconds=finite(record.real_seconds),
        cohort=int(record.cohort),
        results=done,
        lost=record.lost,
        bytes_down=int(record.bytes_down),
        bytes_up=int(record.bytes_up),
        model_sha256=record.model_sha256,
    )


def _insert_clients(connection: Connection, columns: Mapping[str, Sequence[Any]]) -> None:
    """Insert rows as the driver takes them: SQLAlchemy would spend more on each than writing."""
    statement = insert(_CLIENTS).compile(dialect=connection.dialect)
    # Where the driver counts parameters, in its order; else by their names.
    names = statement.positiontup or list(columns)
    rows: Iterator[Any] = zip(*(columns[name] for name in names), strict=True)
    if statement.positiontup is None:
        rows = (dict(zip(names, row, strict=True)) for row in rows)
    while batch := list(islice(rows, _BATCH)):
        connection.exec_driver_sql(str(statement), batch)


def _client_columns(
    run_id: str, round: int, clients: Sequence["ClientRecord"]
) -> dict[str, Sequence[Any]]:
    """Return clients' rows, in columns as the driver takes them: their JSON is text already."""
    return {
        "run_id": [run_id] * len(clients),
        "round": [int(round)] * len(clients),
        "phase": [client.phase for client in clients],
        "client": [int(client.client) for client in clients],
        "weight": _finite([client.weight for client in clients]),
        "metrics": _as_json([client.metrics for client in clients]),
        "real_seconds": _finite([client.real_seconds for client in clients]),
        "bytes_down": [int(client.bytes_down) for client in clients],
        "bytes_up": [int(client.bytes_up) for client in clients],
        "lost": [text(client.lost) for client in clients],
    }


def _finite(values: Sequence[float]) -> Sequence[float | None]:
    """Return numbers as `finite` does: at once where they all are Python's, and finite."""
    is_plain = set(map(type, values)) <= {float} and all(map(math.isfinite, values))
    return values if is_plain else [finite(value) for value in values]


def _as_json(many: Sequence[Mapping[str, float]]) -> list[str]:
    """Return metrics as `plain` would have them: all at once where they are as they should be."""
    if all(map(_are_clean, {tuple(metrics) for metrics in many})):
        with suppress(ValueError, TypeError):  # NaN; numbers that are not Python's
            # Numbers in a dictionary have no braces, and names with some are not clean.
            parts = _ENCODER.encode([*map(dict, many)])[2:-2].split("}, {")
            if len(parts) == len(many):
                return [f"{{{part}}}" for part in parts]
    return [json.dumps(plain(metrics)) for metrics in many]


@lru_cache
def _are_clean(names: tuple[str, ...]) -> bool:
    return all(text(name) == name and "}" not in name for name in names)


def _reason(error: IntegrityError) -> str:
    return str(error.orig).splitlines()[0]


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).columns}
