"""Parquet and Arrow files as a store of rows: only the pieces with a client's rows are read.

A piece is a row group of Parquet or a record batch of Arrow. The pass over all rows remembers in
which pieces each client has rows, and the files' footers, so that reading a client later touches
these pieces' columns and nothing else: no footer, no listing.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from fedsim.data._arrow import block_of, flat_names, flattened
from fedsim.data._rows import Block, length, take, text_of
from fedsim.data._storage import Found, Storage, told
from fedsim.data._survey import Wanted
from fedsim.errors import DataError

__all__ = ["ENDINGS", "ArrowFiles"]

ENDINGS = (".parquet", ".parq", ".arrow", ".feather", ".ipc")
_PARQUET = (".parquet", ".parq")
_AT_ONCE = 16_384  # rows in memory during the pass over all of them
_INDEX = re.compile(r"__index_level_\d+__")  # row numbers that pandas wrote along
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the folder in which Spark and Hive keep what is empty


@dataclass(frozen=True)
class ArrowFiles:
    """A data set's files, in the order of their names. `footers`: of Parquet files, once read."""

    storage: Storage
    files: tuple[Found, ...]
    wanted: Wanted
    footers: dict[int, bytes] = field(default_factory=dict)

    def stamp(self) -> Any:
        """Return what changes when a file does."""
        return [self.storage.url, [[f.name, f.size_bytes, f.changed_ns] for f in self.files]]

    def scan(self) -> Iterator[tuple[Block, NDArray[np.int64]]]:
        """Read all rows, at most some thousands at a time."""
        for number, file in enumerate(self.files):
            with told(self.storage), self._open(number) as opened:
                for piece in range(opened.pieces):
                    for table in opened.batches(piece, self._columns):
                        block = self._block(table, file)
                        place = np.array([[number, piece, piece + 1]], np.int64)
                        yield block, np.repeat(place, length(block), axis=0)

    def read(self, client: str, places: NDArray[np.int64]) -> Iterator[Block]:
        """Read the pieces in which a client has rows, and keep those rows."""
        for number, first, end in places.tolist():
            with told(self.storage), self._open(number) as opened:
                for piece in range(first, end):
                    for table in opened.batches(piece, self._columns):
                        block = self._block(table, self.files[number])
                        if self.wanted.client is not None:
                            mine = text_of(block[self.wanted.client]) == client
                            block = take(block, mine)
                        yield block

    def extras(self) -> Mapping[str, NDArray[Any]]:
        """Return the footers."""
        footers = [self.footers.get(i, b"") for i in range(len(self.files))]
        sizes = np.array([len(footer) for footer in footers], np.int64)
        return {"footers": np.frombuffer(b"".join(footers), np.uint8), "footer_sizes": sizes}

    def with_extras(self, extras: Mapping[str, NDArray[Any]]) -> "ArrowFiles":
        """Return the files with their footers."""
        ends = np.cumsum(extras["footer_sizes"])
        starts = ends - extras["footer_sizes"]
        places = enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        footers = {i: bytes(extras["footers"][a:b]) for i, (a, b) in places if b > a}
        return replace(self, footers=footers)

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """Return the columns to read, of those that the first file has and the folders."""
        with told(self.storage), self._open(0) as opened:
            own = flat_names(opened.schema)
        folders = (name for file in self.files for name in _folders(file.name))
        names = dict.fromkeys([*own, *folders])
        return self.wanted.columns(name for name in names if not _INDEX.fullmatch(name))

    def _open(self, number: int) -> "_Opened":
        file = self.files[number]
        source = self.storage.open(file.path)
        if not file.name.lower().endswith(_PARQUET):
            return _Batches(source)
        opened = _RowGroups(source, self.footers.get(number))
        if number not in self.footers:
            self.footers[number] = opened.footer()
        return opened

    @cached_property
    def _numeric_folders(self) -> set[str]:
        """Name the columns that are folders and hold numbers in all of them."""
        values: dict[str, set[str]] = {}
        for file in self.files:
            for name, value in _folders(file.name).items():
                if value is not None:
                    values.setdefault(name, set()).add(value)
        return {name for name, own in values.items() if all(map(_is_number, own))}

    def _block(self, table: Any, file: Found) -> Block:
        """Return a piece's rows with the columns that are folders, all in one order."""
        found = dict(block_of(table))
        for name, value in _folders(file.name).items():
            if name in self._columns and name not in found:
                if name in self._numeric_folders:
                    number = np.nan if value is None else float(value)
                    found[name] = np.full(table.num_rows, number, np.float64)
                else:
                    found[name] = np.full(table.num_rows, value, dtype=object)
        for name in self._columns:  # a column that only other files have is empty here
            found.setdefault(name, np.full(table.num_rows, None, dtype=object))
        return {name: found[name] for name in self._columns}


class _RowGroups:
    """An open Parquet file."""

    def __init__(self, source: Any, footer: bytes | None) -> None:
        import pyarrow.parquet as parquet

        known = _footer(footer) if footer else None
        self.file = parquet.ParquetFile(
            source, metadata=known, pre_buffer=True, coerce_int96_timestamp_unit="us"
        )
        self.source, self.schema = source, self.file.schema_arrow
        self.pieces: int = self.file.num_row_groups

    def batches(self, piece: int, columns: tuple[str, ...]) -> Iterator[Any]:
        import pyarrow as pa

        own = flat_names(self.schema)
        names = [name for name in columns if name in own]
        whole = list(dict.fromkeys(own[name] for name in names))
        if not whole:
            rows = self.file.metadata.row_group(piece).num_rows
            yield pa.table({"": pa.nulls(rows)})
            return
        for batch in self.file.iter_batches(_AT_ONCE, [piece], whole, use_threads=False):
            yield flattened(pa.Table.from_batches([batch])).select(names)

    def footer(self) -> bytes:
        sink = io.BytesIO()
        self.file.metadata.write_metadata_file(sink)
        return sink.getvalue()

    def __enter__(self) -> "_RowGroups":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.source.close()


class _Batches:
    """An open Arrow file."""

    def __init__(self, source: Any) -> None:
        from pyarrow import ipc

        try:
            self.file = ipc.open_file(source)
        except ValueError as error:
            raise DataError(f"no Arrow file, which a stream of Arrow is not: {error}") from error
        self.source, self.schema = source, self.file.schema
        self.pieces: int = self.file.num_record_batches

    def batches(self, piece: int, columns: tuple[str, ...]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import ipc

        own = flat_names(self.schema)
        names = [name for name in columns if name in own]
        whole = sorted({self.schema.get_field_index(own[name]) for name in names})
        options = ipc.IpcReadOptions(included_fields=whole, use_threads=False)
        batch = ipc.open_file(self.source, options=options).get_batch(piece)
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = pa.Table.from_batches([batch.slice(start, _AT_ONCE)])
            yield flattened(part).select(names)

    def __enter__(self) -> "_Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()


_Opened = _RowGroups | _Batches


@lru_cache(maxsize=64)
def _footer(content: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    return parquet.read_metadata(pa.BufferReader(content))


def _folders(name: str) -> dict[str, str | None]:
    """Return the columns that a file's folders stand for: `hospital=north/year=2024/x.parquet`."""
    pairs = [part.split("=", 1) for part in name.split("/")[:-1] if "=" in part]
    return {unquote(k): None if v == _NO_VALUE else unquote(v) for k, v in pairs}


def _is_number(text: str) -> bool:
    """Say if a folder's value is a number, written as one is: 007 is a name."""
    try:
        value = float(text)
    except ValueError:
        return False
    return np.isfinite(value) and (text == str(value) or text == str(int(value)))
