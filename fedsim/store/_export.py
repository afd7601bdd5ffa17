"""A run's rounds and clients as CSV, JSON or Parquet: one row each, stable columns."""

import json
from pathlib import Path
from typing import Any

from fedsim.errors import SetupError
from fedsim.store._runs import RunStore

__all__ = ["FORMATS", "export"]

FORMATS = ("csv", "json", "parquet")


def export(store: RunStore, run: str, kind: str, folder: Path) -> list[Path]:
    """Write `rounds.KIND` and `clients.KIND` (and `run.json`) of a run into a folder.

    Metrics become columns named like `test/accuracy`, stages of a round `seconds/train`.
    Raises `UnknownRunError`, or `SetupError` when the folder cannot be written.
    """
    stored = store.get(run)
    tables = {"rounds": _table(stored.rounds), "clients": _table(store.clients(stored.id))}
    facts = ("id", "name", "status", "created", "finished", "config", "environment", "partition")
    about = {key: getattr(stored, key) for key in (*facts, "facts", "summary")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "run.json"]
        paths[0].write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, rows in tables.items():
            paths.append(folder / f"{name}.{kind}")
            _write(rows, kind, paths[-1])
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror or error}") from error
    return paths


def _write(rows: list[dict[str, Any]], kind: str, path: Path) -> None:
    import pandas as pd

    if kind == "json":
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return
    frame = pd.DataFrame(rows)
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flatten metrics and seconds into columns; fixed columns first, then the others sorted."""
    flat = []
    for row in rows:
        fixed = {k: v for k, v in row.items() if k not in ("metrics", "seconds")}
        extra = dict(row["metrics"])
        extra |= {f"seconds/{stage}": value for stage, value in row.get("seconds", {}).items()}
        flat.append((fixed, extra))
    names = sorted({name for _, extra in flat for name in extra})
    return [fixed | {name: extra.get(name) for name in names} for fixed, extra in flat]
