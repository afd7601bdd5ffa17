"""Clients whose rows stay where they are kept, each read when that client is asked for.

A `Store` is somewhere that rows are: files, a database. It is looked through once (`_survey.py`);
what that found is kept in the cache, under what the store says of its contents, and from then on a
client costs its own rows and nothing else. Dealt out by any other partition than `natural`, the
rows are read into memory once, and are a pooled data set like others.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedsim.data._cache import Cache
from fedsim.data._contents import content_sha256
from fedsim.data._encoding import Encoding
from fedsim.data._rows import Block, fingerprints, join, length, take, text_of
from fedsim.data._survey import Survey, Wanted, is_test, only_usable, survey
from fedsim.data._types import Dataset, Examples, Meta, RawTable
from fedsim.errors import ConfigError, DataError, MissingDataError, Problem

__all__ = ["Store", "Stored", "StoredClients", "open_stored", "pooled_rows", "stored_key"]

_FORMAT = 1  # of what is kept; a change makes old folders unused
_RECENT_BYTES = 256 << 20  # of encoded examples that a process keeps at hand


class Store(Protocol):
    """Somewhere that rows are kept."""

    def stamp(self) -> Any:
        """Return, as JSON, what changes when the contents do."""
        ...

    def scan(self) -> Iterator[tuple[Block, NDArray[np.int64]]]:
        """Read all rows once, a block at a time, with each row's place, if rows have places."""
        ...

    def read(self, client: str, places: NDArray[np.int64]) -> Iterator[Block]:
        """Read the rows of one client, and as few others as can be."""
        ...

    def extras(self) -> Mapping[str, NDArray[Any]]:
        """Return what reading needs besides places; it is kept."""
        ...

    def with_extras(self, extras: Mapping[str, NDArray[Any]]) -> Self:
        """Return the store with what was kept, so that it need not be found again."""
        ...


@runtime_checkable
class Stored(Protocol):
    """A data set that stays where it is kept, so that each client reads its own rows alone."""

    @property
    def client(self) -> str | None:
        """Return the column that names the client."""
        ...

    def wanted(self) -> Wanted:
        """Return what the experiment asks for."""
        ...

    def store(self) -> Store:
        """Find the rows; none of them is read yet."""
        ...


@dataclass(frozen=True)
class StoredClients:
    """Natural clients, in the order of their names; each is evaluated on its own test rows."""

    store: Store
    wanted: Wanted
    survey: Survey
    recent: "_Recent" = field(default_factory=lambda: _Recent(_RECENT_BYTES))

    @cached_property
    def meta(self) -> Meta:
        """Describe the data."""
        return _meta(self.survey.encoding, self.wanted, self.survey.sha256, self.survey.names)

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return len(self.survey.names)

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training rows of every client."""
        return self.survey.counts - self.survey.tests

    def train(self, client: int) -> Examples:
        """Return one client's training examples.

        Raises `DataError` where its rows are not those that were there at the survey.
        """
        return self._parts(client)[0]

    def held_out(self, client: int) -> Examples:
        """Return the examples that one client is evaluated on. Raises as `train` does."""
        return self._parts(client)[1]

    def test(self) -> Examples:
        """Return the server's test set."""
        return self.survey.encoding.examples(self.survey.test)

    def _parts(self, client: int) -> tuple[Examples, Examples]:
        if (known := self.recent.get(client)) is not None:
            return known
        rows, tested = self._rows(client)
        parts = (
            self.survey.encoding.examples(take(rows, ~tested)),
            self.survey.encoding.examples(take(rows, tested)),
        )
        self.recent.put(client, parts)
        return parts

    def _rows(self, client: int) -> tuple[Block, NDArray[np.bool_]]:
        """Return one client's rows by their fingerprints, and which are in the test part."""
        found, name = self.survey, self.survey.names[client]
        places = found.places[found.offsets[client] : found.offsets[client + 1]]
        try:
            rows = self._read(name, places)
        except (DataError, MissingDataError) as error:
            raise self._changed(name, str(error)) from error
        prints = fingerprints(rows) if rows else np.zeros(0, np.uint64)
        if len(prints) != found.counts[client] or prints.sum() != found.sums[client]:
            raise self._changed(name, f"{len(prints)} now, {found.counts[client]} then")
        order = np.argsort(prints, kind="stable")
        tested = is_test(prints[order], self.wanted) & bool(found.tests[client])
        return take(rows, order), tested

    def _read(self, name: str, places: NDArray[np.int64]) -> Block:
        blocks = [only_usable(b, self.wanted)[0] for b in self.store.read(name, places)]
        blocks = [block for block in blocks if length(block)]
        return join(blocks) if blocks else {}

    def _changed(self, name: str, how: str) -> DataError:
        return DataError(
            f"{self.wanted.where}: the rows of client {name!r} have changed since the run began "
            f"({how}). Start a new run; if that says the same, delete the folder runs/cache"
        )


class _Recent:
    """What was read last, up to a number of bytes: rounds ask for the same clients again."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._parts: OrderedDict[int, tuple[Examples, Examples]] = OrderedDict()

    def get(self, client: int) -> tuple[Examples, Examples] | None:
        """Return a client's examples if they are at hand."""
        if client in self._parts:
            self._parts.move_to_end(client)
        return self._parts.get(client)

    def put(self, client: int, parts: tuple[Examples, Examples]) -> None:
        """Keep a client's examples, and let go of those not asked for the longest."""
        self._parts[client] = parts
        self._bytes += _size(parts)
        while self._bytes > self._most and self._parts:
            self._bytes -= _size(self._parts.popitem(last=False)[1])


def open_stored(data: Stored, cache: Cache | None) -> StoredClients:
    """Return the natural clients of a data set that stays where it is.

    Raises `ConfigError`, `DataError`, `MissingDataError`, `SetupError` or `NetworkError`.
    """
    wanted = data.wanted()
    if wanted.client is None:
        accepted = "the column that names the client"
        raise ConfigError([Problem("partition.by", None, accepted)])
    store = data.store()
    if cache is None:
        return StoredClients(store, wanted, survey(store.scan(), wanted))
    kept = cache.kept(stored_key(data, store, wanted))
    if kept.is_there:
        names = kept.facts()["extras"]
        return StoredClients(
            store.with_extras({name: kept.array(name) for name in names}),
            wanted,
            Survey.load(kept),
        )
    found = survey(store.scan(), wanted)
    found.save(kept, store.extras())
    return StoredClients(store, wanted, found)


def stored_key(data: Stored, store: Store, wanted: Wanted) -> str:
    """Name what determines a survey: the contents as the store stamps them, and what is asked."""
    facts = [_FORMAT, type(data).__name__, asdict(wanted), store.stamp()]
    text = json.dumps(facts, sort_keys=True, default=str)
    return f"{type(data).__name__.lower()}-rows-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def pooled_rows(data: Stored) -> RawTable:
    """Read everything into memory as a pooled data set, with its rows as they were.

    Rows come in the order of their fingerprints; test rows are the same as for natural clients.
    Raises what `open_stored` raises.
    """
    wanted, store = data.wanted(), data.store()
    blocks = []

    def remembered() -> Iterator[tuple[Block, NDArray[np.int64]]]:
        for block, _ in store.scan():
            usable, _ = only_usable(block, wanted, {})
            blocks.append(usable)
            yield block, np.zeros((length(block), 0), np.int64)

    found = survey(remembered(), wanted)
    rows = join([block for block in blocks if length(block)])
    prints = fingerprints(rows)
    order = np.argsort(prints, kind="stable")
    rows, owners = take(rows, order), _owners(take(rows, order), wanted, found)
    tested = is_test(prints[order], wanted) & (found.tests[owners] > 0)
    examples = found.encoding.examples(rows)
    group = owners if wanted.client else None
    train, test = (_some(examples, group, np.flatnonzero(part)) for part in (~tested, tested))
    names = found.names if wanted.client else ()
    meta = _meta(found.encoding, wanted, content_sha256(train, test), names)
    frame = _frame(rows, wanted)
    return RawTable(Dataset(meta, train, test), frame[~tested], frame[tested], wanted.target)


def _owners(rows: Block, wanted: Wanted, found: Survey) -> NDArray[np.int64]:
    if wanted.client is None:
        return np.zeros(length(rows), np.int64)
    place = {name: i for i, name in enumerate(found.names)}
    return np.array([place[name] for name in text_of(rows[wanted.client])], dtype=np.int64)


def _some(examples: Examples, group: NDArray[np.int64] | None, rows: NDArray[np.int64]) -> Examples:
    return Examples(examples.x[rows], examples.y[rows], None if group is None else group[rows])


def _frame(rows: Block, wanted: Wanted) -> Any:
    import pandas as pd

    columns = {
        name: column if column.ndim == 1 else list(column)
        for name, column in rows.items()
        if name != wanted.client
    }
    return pd.DataFrame(columns)


def _meta(encoding: Encoding, wanted: Wanted, sha256: str, names: tuple[str, ...]) -> Meta:
    mean, std = encoding.pixels
    return Meta(
        name=Path(wanted.where).stem or wanted.where,
        kind=encoding.kind,
        input_shape=encoding.input_shape,
        outputs=len(encoding.classes) if encoding.kind == "classification" else 1,
        sha256=sha256,
        mean=mean,
        std=std,
        class_names=encoding.classes,
        group_names=names,
        source=wanted.where,
    )


def _size(parts: tuple[Examples, Examples]) -> int:
    return sum(part.x.nbytes + part.y.nbytes for part in parts)
