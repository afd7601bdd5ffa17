"""Run a table's rows over its seeds: a sweep, so that what is done is not done again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim import config as configuration
from fedsim.errors import ConfigError
from fedsim.reproduce._table import Row, Table, Version
from fedsim.store import RunStore, StoredRun
from fedsim.sweep import Cell, Outcome, Sweep, run_sweep
from fedsim.sweep._cells import named

__all__ = ["Measured", "measure", "reproduce"]

_HERE = ("engine.grid=inprocess", "storage.report=false")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a row came to: a value for each seed; `error`: why it has none."""

    row: Row
    values: tuple[float, ...]
    error: str = ""


def reproduce(
    table: Table,
    *,
    is_full: bool,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    jobs: int = 1,
    tell: Callable[[Outcome, int, int], None] = lambda outcome, done, count: None,
) -> list[Measured]:
    """Run a table, in full or shortened, and measure its rows.

    A row that cannot be run says why, and stops no other. Raises `Interrupted` after Ctrl-C.
    """
    version = table.version(is_full=is_full)
    name = f"reproduce-{table.name}-{'full' if version is table.full else 'short'}"
    cells, refused = _cells(table, version, name)
    outcomes = run_sweep(Sweep(name, {}, cells), runs=runs, data_dir=data_dir, jobs=jobs, tell=tell)
    store, found = RunStore(runs), []
    for row in table.rows:
        mine = [outcome for outcome in outcomes if outcome.values["row"] == row.name]
        errors = [o.error or o.status for o in mine if not o.run]
        if row.name in refused or errors:
            found.append(Measured(row, (), refused.get(row.name) or errors[0]))
            continue
        values = [measure(table, version, store, store.get(outcome.run)) for outcome in mine]
        found.append(Measured(row, tuple(values)))
    return found


def measure(table: Table, version: Version, store: RunStore, run: StoredRun) -> float:
    """Return what a run came to; rounds that never came are infinitely many."""
    if table.measure == "clients":
        last = run.rounds[-1]["round"]
        rows = store.clients(run.id, round=last, phase="evaluate")
        own = [float(r["metrics"][table.metric]) for r in rows if table.metric in r["metrics"]]
        return sum(own) / len(own)
    pairs = [(entry["round"], entry["metrics"].get(table.metric)) for entry in run.rounds]
    tested = [(number, value) for number, value in pairs if value is not None]
    if table.measure == "rounds":
        target = version.target or 0.0
        return float(next((n for n, value in tested if value >= target), float("inf")))
    values = [value for _, value in tested]
    if table.measure == "best":
        return float(min(values) if table.is_lower_better else max(values))
    return float(values[-1])


def _cells(table: Table, version: Version, name: str) -> tuple[list[Cell], dict[str, str]]:
    """Return the runs of a table, and the rows that are not legal here, each with why."""
    cells: list[Cell] = []
    refused: dict[str, str] = {}
    base: Mapping[str, Any] = table.experiment
    for row in table.rows:
        for seed in version.seeds:
            settings = [*row.settings, *version.settings, f"seed={seed}", *_HERE]
            try:
                config = configuration.load(_experiment(base), settings, {})
            except ConfigError as error:
                refused[row.name] = str(error.problems[0])
                break
            values = {"row": row.name, "seed": str(seed)}
            cells.append(Cell(values, replace(config, name=named(name, config))))
    return cells, refused


def _experiment(content: Mapping[str, Any]) -> Any:
    """Return what `config.load` takes: a built-in experiment's name, or the content itself."""
    return content.get("builtin", content)
