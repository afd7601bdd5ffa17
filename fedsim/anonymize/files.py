"""Tables in files, read and written piece by piece: CSV, TSV, Parquet.

A CSV file has no types, so all its cells are text and what is not generalized or treated comes out
as it went in. Rows with too many or too few cells, unnamed and repeated columns and other encodings
are refused: whoever guesses there moves cells into columns that have another role.
"""

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fedsim.errors import ConfigError, DataError, MissingDataError, Problem, SetupError

__all__ = [
    "Advance",
    "TableFile",
    "as_frame",
    "chunks",
    "open_table",
    "refuse_same_file",
    "table_kind",
    "writer",
]

#: Told how much of a file has been read: a share from 0 to 1.
Advance = Callable[[float], None]

_KINDS: dict[str, Literal["csv", "parquet"]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SEPARATORS = ",;\t|"
# Read at once; no row may be longer. pyarrow keeps 32 of them ready (its background generator).
_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 32_768
_LINES = 4_096  # written at once: Python's texts take room of their own
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file with a table: its kind, how its text is written, and its columns.

    `types`: of the columns of a Parquet file, as pyarrow has them; of a CSV file, none. `stream`:
    the open file, where it is one that has no name yet.
    """

    path: Path
    kind: Literal["csv", "parquet"]
    columns: tuple[str, ...]
    separator: str = ","
    encoding: str = "utf-8"
    types: tuple[Any, ...] = ()
    stream: BinaryIO | None = None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Give the file, at its beginning."""
        if self.stream is None:
            with self.path.open("rb") as file:
                yield file
        else:
            self.stream.seek(0)
            yield self.stream


def table_kind(path: Path, field: str = "FILE") -> Literal["csv", "parquet"]:
    """Return what kind of file a name stands for. Raises `ConfigError` for other names."""
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        accepted = f"a file whose name ends in one of {', '.join(_KINDS)}"
        raise ConfigError([Problem(field, str(path), accepted)])
    return kind


def open_table(
    path: Path, *, separator: str = "", encoding: str = "utf-8", stream: BinaryIO | None = None
) -> TableFile:
    """Look at a file: its columns and how it is written.

    `separator`: between cells; found in the first line where it is not given. `stream`: read this
    instead, and take only the kind of the file from the name. Raises `ConfigError`
    for files of another kind, `MissingDataError`, and `DataError` for a header that is none.
    """
    kind = table_kind(path)
    bare = TableFile(path, kind, (), separator, encoding, stream=stream)
    try:
        with bare.opened() as file:
            if kind == "parquet":
                return _open_parquet(bare, file)
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise MissingDataError(f"cannot read {path}: {error.strerror or error}") from error
    text = _decoded(path, start, encoding)
    if not text.strip():
        raise DataError(f"{path} is empty: a table has a first line with the names of its columns")
    found = separator or _separator(text, path)
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=found))
    return replace(bare, columns=_names(path, names), separator=found)


def chunks(
    table: TableFile, columns: Sequence[str] | None = None, advance: Advance | None = None
) -> Iterator[Any]:
    """Yield the rows in pieces, as pyarrow record batches; of all columns or of some.

    Raises `DataError` for rows that are none, and never shows what is in them.
    """
    wanted = list(table.columns if columns is None else columns)
    read = _parquet_batches if table.kind == "parquet" else _csv_batches
    for batch in read(table, wanted, advance or _ignore):
        if batch.num_rows:
            yield batch


def as_frame(batch: Any, empty: Sequence[str] = ()) -> Any:
    """Return a pandas frame of a record batch; text in NFC, blank text and `empty` as missing."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pa.array(["", *empty], type=pa.string())
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            text = pc.utf8_normalize(column.cast(pa.string()), form="NFC")
            is_gone = pc.is_in(pc.utf8_trim_whitespace(text), value_set=gone)
            column = pc.if_else(is_gone, pa.scalar(None, pa.string()), text)
        # Whole numbers stay such beside missing ones: an identifier must not lose digits.
        columns[name] = column.to_pandas(integer_object_nulls=True, date_as_object=False)
    return pd.DataFrame(columns)


def writer(
    file: BinaryIO, schema: Any, *, kind: str, separator: str = ",", encoding: str = "utf-8"
) -> "Callable[[Any], None]":
    """Return what writes record batches of one schema to a file, one after the other.

    Called with None it ends the file. Raises `OSError` where the disk is full.
    """
    if kind == "parquet":
        return _parquet_writer(file, schema)
    unowned: Any = _Open(file)
    text = io.TextIOWrapper(unowned, encoding=encoding, newline="")
    lines = csv.writer(text, delimiter=separator, lineterminator="\n")
    # Python up to 3.12 does not quote a carriage return on its own, which readers end a row at.
    quoted = csv.writer(text, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
    lines.writerow(schema.names)

    def write(batch: Any) -> None:
        if batch is None:
            text.flush()
            return
        for first in range(0, batch.num_rows, _LINES):
            columns = [_texts(column) for column in batch.slice(first, _LINES).columns]
            put = quoted if any(map(_has_return, columns)) else lines
            put.writerows(zip(*columns, strict=True))

    return write


class _Open(io.RawIOBase):
    """A file that stays open when what wraps it is thrown away."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return self._file.write(content)


def _open_parquet(table: TableFile, file: BinaryIO) -> TableFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = table.path
    try:
        schema = pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file: {_first_line(error)}") from error
    other = [field.name for field in schema if not _is_plain(field.type)]
    if other:
        accepted = "columns of text, numbers, dates or truth values, one cell for each row"
        raise ConfigError([Problem("columns", other, accepted)])
    types = tuple(field.type for field in schema)
    return replace(table, columns=_names(path, schema.names), types=types)


def _csv_batches(table: TableFile, wanted: list[str], advance: Advance) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    bad: list[Any] = []

    def refuse(row: Any) -> str:
        bad.append(row)
        return "error"

    with table.opened() as file:
        size = max(os.fstat(file.fileno()).st_size, 1)
        try:
            reader = arrow.open_csv(
                file,
                read_options=arrow.ReadOptions(
                    use_threads=False,  # which is what gives rows their numbers
                    block_size=_BLOCK_BYTES,
                    column_names=list(table.columns),
                    skip_rows_after_names=1,
                    encoding=table.encoding,
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=table.separator,
                    newlines_in_values=True,
                    # In a table of one column a blank line is a row with an empty cell.
                    ignore_empty_lines=len(table.columns) > 1,
                    invalid_row_handler=refuse,
                ),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(table.columns, pa.string()), include_columns=wanted
                ),
            )
            for batch in reader:
                yield batch
                advance(min(file.tell() / size, 1.0))
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            # What pyarrow says has the row itself in it: personal data, in a log.
            raise DataError(f"{table.path}: {_csv_reason(error, bad, table)}") from None


def _csv_reason(error: Exception, bad: list[Any], table: TableFile) -> str:
    text = str(error)
    if bad:
        return (
            f"row {bad[0].number} has {bad[0].actual_columns} cells where the header has "
            f"{bad[0].expected_columns} (counted with the header; a quote that is not closed "
            "does that, too)"
        )
    if isinstance(error, UnicodeDecodeError) or "UTF8" in text:
        return f"is not text in {table.encoding}: name its encoding (--encoding latin-1)"
    if "straddl" in text:
        return f"a row is longer than {_BLOCK_BYTES >> 20} MiB, or a quote is not closed"
    return "cannot be read as CSV"


def _parquet_batches(table: TableFile, wanted: list[str], advance: Advance) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with table.opened() as source, pq.ParquetFile(source, pre_buffer=False) as file:
            stored = file.schema_arrow.names
            names = [stored[table.columns.index(name)] for name in wanted]
            rows = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                plain = [_plain(batch.column(name)) for name in names]
                yield pa.RecordBatch.from_arrays(plain, names=wanted)
                done += batch.num_rows
                advance(done / rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{table.path} is damaged: {_first_line(error)}") from error


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = (
        types.is_string, types.is_large_string, types.is_integer, types.is_floating,
        types.is_decimal, types.is_date, types.is_timestamp, types.is_boolean, types.is_null,
    )  # fmt: skip
    return any(is_kind(kind) for is_kind in plain)


def _plain(column: Any) -> Any:
    """Return a column whose cells are in it, and not in a dictionary beside it."""
    import pyarrow as pa

    is_coded = pa.types.is_dictionary(column.type)
    return column.dictionary_decode() if is_coded else column


def _parquet_writer(file: BinaryIO, schema: Any) -> Callable[[Any], None]:
    import pyarrow.parquet as pq

    out = pq.ParquetWriter(file, schema)

    def write(batch: Any) -> None:
        if batch is None:
            out.close()
        else:
            out.write_batch(batch)

    return write


def _has_return(cells: list[Any]) -> bool:
    return any(isinstance(cell, str) and "\r" in cell for cell in cells)


def _texts(column: Any) -> list[Any]:
    import pyarrow as pa

    cells: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):
        return ["" if cell is None else repr(cell).removesuffix(".0") for cell in cells]
    return ["" if cell is None else cell for cell in cells]


def _decoded(path: Path, start: bytes, encoding: str) -> str:
    try:
        return _without_rest(start, encoding)
    except LookupError as error:
        accepted = "the name of an encoding, such as utf-8, latin-1, cp1252 or utf-16"
        raise ConfigError([Problem("--encoding", encoding, accepted)]) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in {encoding}: name its encoding (--encoding latin-1)"
        ) from error


def _without_rest(start: bytes, encoding: str) -> str:
    """Decode the beginning of a file, which may end within a letter."""
    import codecs

    decoder = codecs.getincrementaldecoder(encoding)()
    return decoder.decode(start, final=len(start) < _HEADER_BYTES).removeprefix("\ufeff")


def _separator(text: str, path: Path) -> str:
    """Return the separator that makes the most columns of the first line."""
    if path.suffix.lower() == ".tsv":
        return "\t"

    def count(separator: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator)))

    return max(_SEPARATORS, key=count)  # the first of equals: the comma


def _names(path: Path, given: Sequence[str]) -> tuple[str, ...]:
    names = [unicodedata.normalize("NFC", name).strip() for name in given]
    blank = [i + 1 for i, name in enumerate(names) if not name]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if blank:
        raise DataError(
            f"{path}: column {blank[0]} of {len(names)} has no name; a column that cannot be named "
            "cannot be declared"
        )
    if twice:
        raise DataError(f"{path}: two columns are named {twice[0]!r}; names are there once")
    return tuple(names)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _ignore(share: float) -> None:
    pass


def refuse_same_file(source: Path, output: Path) -> None:
    """Raise `ConfigError` where the output is the input, `SetupError` for a folder that is none."""
    if output.exists() and output.samefile(source):
        accepted = "another file than the input, which stays as it is"
        raise ConfigError([Problem("--output", str(output), accepted)])
    if not output.parent.is_dir():
        raise SetupError(f"there is no folder {output.parent} to write {output.name} into")
    if output.is_dir():
        raise ConfigError([Problem("--output", str(output), "a file, not a folder")])
