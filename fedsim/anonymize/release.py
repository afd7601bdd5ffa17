"""The second pass: rows as they are let out, in an order that says nothing of the input's.

Rows are sorted by their generalized values and, within a class, by a keyed hash of the row. In the
order of the input, the tenth row let out would be the tenth row of the raw file, and a class of k
people no protection from whoever has a list of patients in that order.

What waits on the disk to be sorted are rows as they are let out, in files that have no name: after
a crash nothing of them is left.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._collect import MISSING, as_numbers
from fedsim.anonymize.files import TableFile, as_frame, chunks, writer
from fedsim.anonymize.gather import Gathered
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.treating import Treater, is_dropped

__all__ = ["SUPPRESSED", "Release", "class_labels", "order_of", "write"]

SUPPRESSED = "*"  # in place of every quasi-identifier of a row that is suppressed and kept
_MOST_BUCKETS = 256  # open files
_BUCKET_BYTES = 8 << 20  # of rows that are sorted at once, unless that makes too many buckets
_POSITION = "\0position"  # no column of a table has this name: they are stripped


@dataclass(frozen=True, eq=False)
class Release:
    """All that decides what a table comes to, before a byte of it is written.

    `labels[q]`: names of the generalized values of quasi-identifier q. `positions` int64 [rows]:
    where each row goes, -1 for those left out.
    """

    table: TableFile
    treater: Treater
    gathered: Gathered
    recoding: Recoding
    labels: tuple[list[str], ...]
    positions: NDArray[np.int64]

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that are let out."""
        schema = self.treater.schema
        return tuple(name for name in self.table.columns if not is_dropped(schema, name))


def class_labels(recoding: Recoding, trees: Sequence[Any]) -> tuple[list[str], ...]:
    """Return the names of the generalized values of each quasi-identifier."""
    return tuple(values.labels(tree) for values, tree in zip(recoding.values, trees, strict=True))


def order_of(
    recoding: Recoding,
    labels: Sequence[Sequence[str]],
    hashes: NDArray[np.uint64],
    *,
    keep_suppressed: bool,
) -> NDArray[np.int64]:
    """Return int64 [rows]: where each row goes, -1 for those left out."""
    named = [
        tuple(names[i] for names, i in zip(labels, index, strict=True)) for index in recoding.index
    ]
    rank = np.empty(recoding.classes + 1, dtype=np.int64)
    rank[-1] = recoding.classes  # suppressed rows come last
    rank[sorted(range(len(named)), key=named.__getitem__)] = np.arange(len(named))
    by_class = rank[recoding.class_of]
    order = np.lexsort((hashes, by_class))
    if not keep_suppressed:
        order = order[: len(order) - recoding.suppressed]
    positions = np.full(len(by_class), -1, dtype=np.int64)
    positions[order] = np.arange(len(order))
    return positions


def write(
    release: Release,
    file: BinaryIO,
    folder: Path,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Write the rows to a file; `folder` has room for those that wait to be sorted.

    Raises `OSError` where the disk is full.
    """
    rows = int(release.positions.max(initial=-1)) + 1
    with ExitStack() as open_files:
        buckets = _Buckets(folder, rows, open_files)
        for batch in _batches(release, advance):
            buckets.add(batch)
        table = release.table
        schema = buckets.schema or _no_rows(release)
        put = writer(
            file, schema, kind=table.kind, separator=table.separator, encoding=table.encoding
        )
        for batch in buckets.sorted():
            put(batch)
        put(None)


class _Buckets:
    """Rows by the part of the output that they go to: each part fits in memory."""

    def __init__(self, folder: Path, rows: int, open_files: ExitStack) -> None:
        self._folder, self._rows, self._open = folder, rows, open_files
        self._size = 0  # rows of a bucket
        self._files: dict[int, BinaryIO] = {}
        self._writers: dict[int, Any] = {}
        self.schema: Any = None

    def add(self, batch: Any) -> None:
        """Take rows that have their positions as the last column."""
        import pyarrow as pa

        if self.schema is None:
            self.schema = pa.schema(list(batch.schema)[:-1])
            fitting = _BUCKET_BYTES * batch.num_rows // max(batch.nbytes, 1)
            self._size = max(fitting, -(-self._rows // _MOST_BUCKETS), 1)
        bucket = batch.column(batch.num_columns - 1).to_numpy() // self._size
        order = np.argsort(bucket, kind="stable")
        ordered = batch.take(pa.array(order))
        found, starts = np.unique(bucket[order], return_index=True)
        for number, start, stop in zip(found, starts, [*starts[1:], len(order)], strict=True):
            self._writer(int(number), batch.schema).write_batch(ordered[start:stop])

    def sorted(self) -> Iterator[Any]:
        """Yield all rows in the order of their positions."""
        import pyarrow as pa

        for number in sorted(self._files):
            self._writers[number].close()
            self._files[number].seek(0)
            rows = pa.ipc.open_stream(self._files[number]).read_all()
            self._files[number].close()  # which gives its room on the disk back
            order = pa.array(np.argsort(rows.column(_POSITION).to_numpy()))
            rows = rows.drop_columns([_POSITION]).take(order)
            yield from rows.combine_chunks().to_batches()

    def _writer(self, number: int, schema: Any) -> Any:
        import pyarrow as pa

        if number not in self._files:
            unnamed = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by the stack
            file = self._open.enter_context(unnamed)
            self._files[number] = file
            self._writers[number] = pa.ipc.new_stream(file, schema)
        return self._writers[number]


def _batches(release: Release, advance: Callable[[float], None] | None) -> Iterator[Any]:
    """Yield the rows as they are let out, with their positions, in the order of the input."""
    import pandas as pd
    import pyarrow as pa

    schema, types = release.treater.schema, _Types()
    first = 0
    for batch in chunks(release.table, advance=advance):
        part = slice(first, first + batch.num_rows)
        frame = as_frame(batch, schema.empty)
        frame.index = pd.RangeIndex(first + 1, part.stop + 1)
        columns = [_cells(release, name, batch, frame, part, types) for name in release.columns]
        positions = pa.array(release.positions[part])
        made = pa.RecordBatch.from_arrays([*columns, positions], [*release.columns, _POSITION])
        let_out = np.flatnonzero(release.positions[part] >= 0)
        yield made.take(pa.array(let_out)) if len(let_out) < made.num_rows else made
        first = part.stop


def _cells(
    release: Release, name: str, batch: Any, frame: Any, part: slice, types: "_Types"
) -> Any:
    """Return a column of a piece as it is let out."""
    import pyarrow as pa

    column = release.treater.schema.columns[name]
    encoded, class_of = release.gathered.encoded, release.recoding.class_of[part]
    if name in encoded.names:
        q = encoded.names.index(name)
        names = pa.array([*release.labels[q], SUPPRESSED], type=pa.string())
        which = np.append(release.recoding.index[:, q], len(names) - 1)[class_of]
        return names.take(pa.array(which))
    raw = batch.column(batch.schema.get_field_index(name))
    if column.role == "sensitive":
        cells = raw if column.treatment is None else _counted(release, name, part)
        return _blank(cells, class_of < 0)
    if column.treatment is None:
        return raw
    return types.fitting(name, release.treater.apply(name, frame), raw.type)


def _counted(release: Release, name: str, part: slice) -> Any:
    """Return a treated sensitive column as it was counted: noise must not be drawn again."""
    import pyarrow as pa

    (found,) = [each for each in release.gathered.encoded.sensitive if each.name == name]
    texts = pa.array([None if text == MISSING else text for text in found.values], pa.string())
    numbers = as_numbers(found.values) if release.table.kind == "parquet" else None
    values = texts if numbers is None else pa.array(numbers)
    return values.take(pa.array(found.codes[part]))


def _blank(cells: Any, which: NDArray[np.bool_]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not which.any():
        return cells
    return pc.if_else(pa.array(which), pa.scalar(None, cells.type), cells)


class _Types:
    """The type of each treated column, which is that of its first piece with anything in it."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def fitting(self, name: str, cells: Any, raw: Any) -> Any:
        import pyarrow as pa

        found = pa.Array.from_pandas(cells)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if name not in self._known:
            if pa.types.is_null(found.type):
                self._known[name] = raw
            else:
                self._known[name] = found.type
        return found.cast(self._known[name])


def _no_rows(release: Release) -> Any:
    """Return the columns of a table of which no row is let out: text."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in release.columns])
