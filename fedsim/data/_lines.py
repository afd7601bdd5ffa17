"""Files of one JSON document a line as a store of rows: only a client's own lines are read."""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._extended_json import fields_of_document, parse, value_at
from fedsim.data._rows import Block, column_of, take, text_of
from fedsim.data._storage import Found, Storage, told
from fedsim.data._survey import Wanted
from fedsim.errors import DataError

__all__ = ["ENDINGS", "JsonLines"]

ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_AT_ONCE = 8_192  # documents in memory during the pass over all of them
_PIECE = 1 << 20
_IDENTITY = "_id"  # MongoDB's own key: no two documents have the same, so nothing is learned by it

Line = tuple[bytes, int, int]


@dataclass(frozen=True)
class JsonLines:
    """A data set's files. Places are bytes: lines that follow each other are one place.

    Of a `.gz` file places count unpacked bytes; what is before them has to be unpacked again.
    `names`: the fields that documents have, once they were looked for.
    """

    storage: Storage
    files: tuple[Found, ...]
    wanted: Wanted
    names: dict[str, None] = field(default_factory=dict)

    def stamp(self) -> Any:
        """Return what changes when a file does."""
        return [self.storage.url, [[f.name, f.size_bytes, f.changed_ns] for f in self.files]]

    def scan(self) -> Iterator[tuple[Block, NDArray[np.int64]]]:
        """Read all documents, some thousands at a time; twice, if fields have to be found."""
        columns = self._columns()
        for number in range(len(self.files)):
            rows: list[list[Any]] = []
            places: list[tuple[int, int, int]] = []
            for document, first, end in self._documents(number, 0, None):
                rows.append([value_at(document, name) for name in columns])
                places.append((number, first, end))
                if len(rows) == _AT_ONCE:
                    yield _block(rows, columns), np.array(places, np.int64)
                    rows, places = [], []
            if rows:
                yield _block(rows, columns), np.array(places, np.int64)

    def read(self, client: str, places: NDArray[np.int64]) -> Iterator[Block]:
        """Read one client's lines."""
        columns = self._columns()
        rows = [
            [value_at(document, name) for name in columns]
            for number, start, end in places.tolist()
            for document, _, _ in self._documents(number, start, end)
        ]
        if rows:
            block = _block(rows, columns)
            owners = text_of(block[self.wanted.client]) if self.wanted.client else None
            yield block if owners is None else take(block, owners == client)

    def extras(self) -> Mapping[str, NDArray[Any]]:
        """Return the names of the fields, where they had to be found."""
        return {"fields": np.frombuffer("\n".join(self.names).encode(), np.uint8)}

    def with_extras(self, extras: Mapping[str, NDArray[Any]]) -> "JsonLines":
        """Return the files with the names of their fields."""
        names = bytes(extras["fields"]).decode().split("\n")
        return replace(self, names=dict.fromkeys(name for name in names if name))

    def _columns(self) -> tuple[str, ...]:
        """Return the fields to read: those asked for, else all that any document has."""
        asked = [*self.wanted.features, self.wanted.target, self.wanted.client]
        if self.wanted.features:
            return self.wanted.columns(dict.fromkeys(name for name in asked if name))
        if not self.names:
            for number in range(len(self.files)):
                for document, _, _ in self._documents(number, 0, None):
                    self.names.update((name, None) for name, _ in fields_of_document(document))
            self.names.pop(_IDENTITY, None)
        return self.wanted.columns(self.names)

    def _documents(
        self, number: int, start: int, end: int | None
    ) -> Iterator[tuple[dict[str, Any], int, int]]:
        for line, first, last in self._lines(number, start, end):
            if not line.strip():
                continue
            try:
                document = parse(line)
            except ValueError as error:
                name = self.files[number].name or self.storage.url
                raise DataError(f"{name}, byte {first}: no JSON document: {error}") from error
            yield document, first, last

    def _lines(self, number: int, start: int, end: int | None) -> Iterator[Line]:
        """Yield lines with the places of their first byte and of the byte after them."""
        file = self.files[number]
        with told(self.storage), self.storage.open(file.path) as source:
            if file.name.lower().endswith(".gz"):
                with gzip.GzipFile(fileobj=source) as unpacked:
                    yield from _split(unpacked, start, end)
            else:
                yield from _split(source, start, end)


def _split(source: Any, start: int, end: int | None) -> Iterator[Line]:
    if start:
        source.seek(start)
    place, rest = start, b""
    read = start
    while True:
        size = _PIECE if end is None else min(_PIECE, end - read)
        piece = source.read(size) if size else b""
        if not piece:
            break
        read += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line, place, place + len(line) + 1
            place += len(line) + 1
    if rest:
        yield rest, place, place + len(rest)


def _block(rows: list[list[Any]], columns: tuple[str, ...]) -> Block:
    values = zip(*rows, strict=True)
    return {name: column_of(own, name) for name, own in zip(columns, values, strict=True)}
