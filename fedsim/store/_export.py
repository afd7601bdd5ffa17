"""A run's rounds and clients as CSV, JSON or Parquet: one row each, stable columns."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, Problem, SetupError
from fedsim.registry import suggest
from fedsim.store._runs import RunStore

__all__ = ["FORMATS", "export"]

FORMATS = ("csv", "json", "parquet")

#: Columns that every export has, in this order, with their kinds; metrics follow, sorted.
_ROUNDS = {
    "run_id": str,
    "round": int,
    "cohort": int,
    "results": int,
    "lost": int,
    "real_seconds": float,
    "bytes_down": int,
    "bytes_up": int,
    "model_sha256": str,
}
_CLIENTS = {
    "run_id": str,
    "round": int,
    "phase": str,
    "client": int,
    "weight": float,
    "real_seconds": float,
    "bytes_down": int,
    "bytes_up": int,
    "lost": str,
}
_ABOUT = ("id", "name", "status", "created", "finished")
_PARTS = ("config", "environment", "partition", "facts", "summary")

Row = dict[str, Any]
#: Reads a table from its beginning, a few thousand rows at a time: it may not fit in memory.
Batches = Callable[[], Iterable[Sequence[Row]]]


def export(store: RunStore, run: str, kind: str, folder: Path) -> list[Path]:
    """Write `rounds.KIND`, `clients.KIND` and `run.json` of a run into a folder; return the paths.

    Metrics become columns named like `test/accuracy`, stages of a round `seconds/train`. What was
    not measured, or was not a number, is empty. A file that is there already is replaced when the
    new one is complete. Raises `UnknownRunError`, `ConfigError` for a `kind` that is none of
    `FORMATS`, or `SetupError` when the folder cannot be written.
    """
    if kind not in FORMATS:
        accepted = f"one of {', '.join(FORMATS)}"
        raise ConfigError([Problem("format", kind, accepted, suggest(kind, FORMATS))])
    stored = store.get(run)
    tables: dict[str, tuple[dict[str, type], Batches]] = {
        "rounds": (_ROUNDS, lambda: [stored.rounds]),
        "clients": (_CLIENTS, lambda: store.client_batches(stored.id)),
    }
    about = {key: getattr(stored, key) for key in (*_ABOUT, *_PARTS)}
    paths = [folder / "run.json", *(folder / f"{name}.{kind}" for name in tables)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(paths[0]) as path:
            path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for final, (fixed, batches) in zip(paths[1:], tables.values(), strict=True):
            names = {name for rows in batches() for row in rows for name in _extra(row, fixed)}
            columns = fixed | dict.fromkeys(sorted(names), float)
            flat = (
                [{"run_id": stored.id, **row, **_extra(row, fixed)} for row in rows]
                for rows in batches()
            )
            with _replacing(final) as path:
                _WRITERS[kind](path, columns, flat)
    except OSError as error:
        raise SetupError(
            f"cannot write to {folder}: {error.strerror or error}. Free some space, make it "
            "writable, or choose another folder"
        ) from error
    return paths


def _extra(row: Row, fixed: dict[str, type]) -> Row:
    """Return the metrics and stages of a row by the name of their column."""
    metrics = {
        f"metrics/{name}" if name in fixed else name: value
        for name, value in row["metrics"].items()
    }
    return metrics | {f"seconds/{stage}": v for stage, v in row.get("seconds", {}).items()}


def _write_csv(path: Path, columns: dict[str, type], batches: Iterable[list[Row]]) -> None:
    """Write floats as Python's shortest text that reads back to the same number."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for rows in batches:
            writer.writerows(rows)


def _write_json(path: Path, columns: dict[str, type], batches: Iterable[list[Row]]) -> None:
    """Write one list, with one row per line."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"
        for rows in batches:
            for row in rows:
                file.write(before + json.dumps({name: row.get(name) for name in columns}))
                before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def _write_parquet(path: Path, columns: dict[str, type], batches: Iterable[list[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


_WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of `final` once it is complete."""
    partial = final.with_name(f"{final.name}.partial")
    try:
        yield partial
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)
