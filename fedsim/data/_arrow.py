"""From Arrow tables to blocks of rows: types as Spark, pandas and databases write them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._rows import Block, pictures
from fedsim.errors import DataError

__all__ = ["block_of", "flat_names", "flattened"]


def flattened(table: Any) -> Any:
    """Return a table whose structs are columns: `address.city`; images stay one column."""
    import pyarrow as pa

    while any(_is_open(field.type) for field in table.schema):
        columns: list[Any] = []
        names: list[str] = []
        for name, column in zip(table.column_names, table.columns, strict=True):
            if not _is_open(column.type):
                columns, names = [*columns, column], [*names, name]
                continue
            joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            joined = joined if isinstance(joined, pa.StructArray) else joined.chunk(0)
            parts = joined.flatten()
            columns += parts
            names += [f"{name}.{field.name}" for field in column.type]
        table = pa.table(columns, names=names)
    return table


def flat_names(schema: Any) -> dict[str, str]:
    """Return the columns that `flattened` gives, and the column of the file that each is in."""
    return {name: field.name for field in schema for name in _names_of(field.name, field.type)}


def block_of(table: Any) -> Block:
    """Return an Arrow table, flattened, as a block. Raises `DataError` for types no use here."""
    return {
        name: _column(column, name)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _is_open(kind: Any) -> bool:
    """Say if a type is a struct other than an image's (`bytes`, `path`)."""
    import pyarrow.types as types

    return types.is_struct(kind) and not _is_image(kind)


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and {f.name for f in kind} in ({"bytes", "path"}, {"bytes"})


def _names_of(name: str, kind: Any) -> list[str]:
    if not _is_open(kind):
        return [name]
    return [part for f in kind for part in _names_of(f"{name}.{f.name}", f.type)]


def _column(column: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.types as types

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_null(kind):
        return np.full(len(column), None, dtype=object)
    if types.is_boolean(kind):
        return np.array([None if v is None else str(v) for v in column.to_pylist()], dtype=object)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return _numbers(column.cast(pa.float64(), safe=False))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=object)
    if types.is_temporal(kind):
        return _seconds(column)
    return _nested(column, name)


def _nested(column: Any, name: str) -> NDArray[Any]:
    import pyarrow.types as types

    kind = column.type
    if _is_image(kind):
        return pictures((_present(v, name)["bytes"] for v in column.to_pylist()), name)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return pictures((_present(v, name) for v in column.to_pylist()), name)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(column, name)
    raise DataError(f"column {name!r} is of type {kind}: leave it out of data.features")


def _present(value: Any, name: str) -> Any:
    if value is None:
        raise DataError(f"column {name!r} has empty cells among its images")
    return value


def _numbers(column: Any) -> NDArray[np.float64]:
    values = column.to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float64)


def _seconds(column: Any) -> NDArray[np.float64]:
    """Return times in seconds since 1970, times of a day since midnight."""
    import pyarrow as pa
    import pyarrow.types as types

    kind = column.type
    if types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32()).cast(pa.float64())
        return _numbers(days) * 86_400
    if types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    elif types.is_duration(kind):
        column = column.cast(pa.duration("us"), safe=False)
    else:
        column = column.cast(pa.time64("us"), safe=False)
    return _numbers(column.cast(pa.int64()).cast(pa.float64(), safe=False)) / 1e6


def _lists(column: Any, name: str) -> NDArray[Any]:
    """Return lists of one length, of lists again or of numbers, as an array."""
    import pyarrow as pa
    import pyarrow.types as types

    shape = [len(column)]
    while True:
        kind = column.type
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            break
        if column.null_count:
            raise DataError(f"column {name!r} has empty cells among its lists")
        lengths = pa.compute.list_value_length(column).unique().to_pylist()
        if len(lengths) > 1:
            short, long = min(lengths), max(lengths)
            raise DataError(f"column {name!r} has lists of {short} to {long} values: one is needed")
        shape.append(lengths[0] if lengths else 0)
        column = column.flatten()
    if column.null_count or not (types.is_integer(kind) or types.is_floating(kind)):
        raise DataError(
            f"column {name!r} has lists of {kind} or with empty places: numbers are needed"
        )
    dtype = np.uint8 if types.is_uint8(kind) else np.float32
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=dtype).reshape(shape)
