"""The first pass over a table: rows as codes, and a keyed hash of each row.

Nothing of a row but these stays in memory, in the smallest types that hold them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._collect import Collected, as_numbers, smallest
from fedsim.anonymize.files import TableFile, as_frame, chunks
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.schema import Column, Schema
from fedsim.anonymize.table import Encoded, Sensitive, codes_of, require_columns
from fedsim.anonymize.treating import Treater, kept
from fedsim.errors import ConfigError, Problem

__all__ = ["Gathered", "encode_file", "gather", "row_hashes"]


@dataclass(frozen=True, eq=False)
class Gathered:
    """A table as codes, and who its rows are.

    `row_hashes` uint64 [rows]: of all cells of a row, under a key. `people` uint64 [rows]: of its
    subject, where the schema names that column, else the same.
    """

    encoded: Encoded
    row_hashes: NDArray[np.uint64]
    people: NDArray[np.uint64]


def gather(
    table: TableFile,
    treater: Treater,
    key: bytes,
    advance: Callable[[float], None] | None = None,
) -> Gathered:
    """Read a table once. Raises as `fedsim.anonymize.table.encode` does."""
    import pandas as pd

    schema = treater.schema
    _require(table, schema)
    coded = _coded(schema)
    trees = {name: schema.columns[name].tree() for name in coded}
    codes: dict[str, list[NDArray[Any]]] = {name: [] for name in coded}
    texts = {name: Collected() for name in kept(schema, "sensitive") if name not in coded}
    hashes: list[NDArray[np.uint64]] = []
    people: list[NDArray[np.uint64]] = []
    first = 1
    for batch in chunks(table, advance=advance):
        frame = as_frame(batch, schema.empty)
        frame.index = pd.RangeIndex(first, first + len(frame))
        for name, tree in trees.items():
            cells = treater.apply(name, frame)
            leaves = codes_of(cells, schema.columns[name], name, tree, first=first)
            codes[name].append(smallest(leaves))
        for name, collected in texts.items():
            collected.add(treater.apply(name, frame))
        hashes.append(_hashes(batch, sorted(table.columns), key))
        if schema.subject:
            people.append(_hashes(batch, [schema.subject], key))
        first += len(frame)
    quasi = kept(schema, "quasi")
    matrix = _columns([codes[name] for name in quasi], first - 1)
    sensitive = tuple(
        _of_texts(name, schema.columns[name], texts[name])
        if name in texts
        else _of_leaves(name, schema.columns[name], codes[name], trees[name])
        for name in kept(schema, "sensitive")
    )
    encoded = Encoded(quasi, tuple(trees[name] for name in quasi), matrix, sensitive)
    rows = np.concatenate([np.zeros(0, np.uint64), *hashes])
    return Gathered(encoded, rows, np.concatenate(people) if people else rows)


def encode_file(
    table: TableFile, schema: Schema, advance: Callable[[float], None] | None = None
) -> tuple[NDArray[np.int32], tuple[Hierarchy, ...]]:
    """Return the leaves of a table's quasi-identifiers alone: of a population, for k-map.

    Other columns are not looked at. Raises `ConfigError` for a quasi-identifier it lacks.
    """
    quasi = kept(schema, "quasi")
    lacks = [name for name in quasi if name not in table.columns]
    if lacks:
        accepted = f"a table with the quasi-identifiers {', '.join(quasi)}"
        raise ConfigError([Problem("--population", str(table.path), f"{accepted}: no {lacks[0]}")])
    treater = Treater(schema)
    trees = tuple(schema.columns[name].tree() for name in quasi)
    codes: list[list[NDArray[Any]]] = [[] for _ in quasi]
    rows = 0
    for batch in chunks(table, quasi, advance):
        frame = as_frame(batch, schema.empty)
        for pieces, name, tree in zip(codes, quasi, trees, strict=True):
            column = schema.columns[name]
            cells = frame[name] if column.treatment is None else treater.apply(name, frame)
            pieces.append(smallest(codes_of(cells, column, name, tree, first=rows + 1)))
        rows += len(frame)
    return _columns(codes, rows), trees


def _require(table: TableFile, schema: Schema) -> None:
    import pandas as pd

    require_columns(pd.DataFrame(columns=list(table.columns)), schema)
    if not kept(schema, "quasi"):
        accepted = "at least one column with role quasi: else there is nothing to generalize"
        raise ConfigError([Problem("columns", list(schema.columns), accepted)])


def _coded(schema: Schema) -> tuple[str, ...]:
    """Return the columns that are read by their hierarchies."""
    sensitive = kept(schema, "sensitive")
    return (
        *kept(schema, "quasi"),
        *[name for name in sensitive if schema.columns[name].hierarchy is not None],
    )


def _columns(codes: list[list[NDArray[Any]]], rows: int) -> NDArray[np.int32]:
    found = np.empty((rows, len(codes)), dtype=np.int32)
    for i, pieces in enumerate(codes):
        found[:, i] = np.concatenate([np.zeros(0, np.uint8), *pieces])
        pieces.clear()  # one column twice in memory at most
    return found


def _of_texts(name: str, column: Column, cells: Collected) -> Sensitive:
    """Return a sensitive column; numbers in their order, equal ones once however written."""
    texts, codes = list(cells.texts), cells.codes()
    numbers = as_numbers(texts)
    if numbers is not None:
        _, at, rank = np.unique(numbers, return_index=True, return_inverse=True)
        values = tuple(texts[i] for i in at)
        return Sensitive(name, rank[codes].astype(np.int32), values, column.distance)
    if column.distance == "ordered":
        accepted = "a column of numbers without empty cells, or with an ordered hierarchy"
        raise ConfigError([Problem(f"columns.{name}.distance", "ordered", accepted)])
    order = sorted(range(len(texts)), key=texts.__getitem__)
    place = np.empty(len(texts), dtype=np.int32)
    place[order] = np.arange(len(texts), dtype=np.int32)
    return Sensitive(name, place[codes], tuple(texts[i] for i in order), column.distance)


def _of_leaves(name: str, column: Column, pieces: list[NDArray[Any]], tree: Hierarchy) -> Sensitive:
    codes = np.concatenate([np.zeros(0, np.uint8), *pieces]).astype(np.int32)
    return Sensitive(name, codes, tuple(tree.labels[0]), column.distance, tree)


def row_hashes(frame: Any, names: list[str], key: bytes) -> NDArray[np.uint64]:
    """Return keyed hashes of the rows of a pandas frame: of some of their cells, as in a file."""
    import pyarrow as pa

    return _hashes(pa.RecordBatch.from_pandas(frame, preserve_index=False), names, key)


def _hashes(batch: Any, names: list[str], key: bytes) -> NDArray[np.uint64]:
    """Return keyed hashes of 8 bytes: of each row's cells, with their lengths before them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for name in names:
        text = pc.cast(batch.column(batch.schema.get_field_index(name)), pa.string())
        parts += [pc.cast(pc.binary_length(text), pa.string()), text]
    joined = pc.binary_join_element_wise(*parts, ":", null_handling="replace", null_replacement="-")
    digests = [
        hashlib.blake2b(row.encode(), key=key, digest_size=8).digest() for row in joined.to_pylist()
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
