"""`fedsim sweep` runs an experiment over settings and seeds; `fedsim compare` compares its runs."""

import sys
from typing import Annotated, Any

import typer

from fedsim.cli._complete import experiment_names
from fedsim.cli._output import DataDir, Json, RayAddress, Runs, print_json, print_table
from fedsim.cli.run import split

__all__ = ["compare", "sweep"]


def sweep(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[EXPERIMENT] key=a,b [key=1..5 ...]",
            help="An experiment as of fedsim run, then settings; several values make an axis.",
            autocompletion=experiment_names,
        ),
    ],
    *,
    name: Annotated[str, typer.Option(help="What to call it; default: EXPERIMENT-sweep.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each in its own process.")] = 1,
    grid: Annotated[
        str | None, typer.Option(help="ray or inprocess, for all runs; default: inprocess.")
    ] = None,
    ray_address: RayAddress = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run every cell of a grid that is not done yet, and compare them.

    A cell that fails stops no other; the exit code is 1 then. The same command again goes on with
    what was interrupted and tries again what failed. With --ray-address all runs share one cluster.
    """
    from fedsim.sweep import plan_sweep, run_sweep

    experiment, assignments = split(arguments)
    on_ray = grid == "ray" or ray_address is not None
    if not any(text.startswith("engine.grid=") for text in assignments):
        assignments.append(f"engine.grid={'ray' if on_ray else 'inprocess'}")
    if ray_address is not None:
        assignments.append(f"engine.ray_address={ray_address}")
    planned = plan_sweep(experiment, assignments, name)
    for note in planned.notes:
        sys.stderr.write(f"{note}\n")
    outcomes = run_sweep(planned, runs=runs, data_dir=data_dir, jobs=jobs, tell=_tell)
    code = _exit_code(outcomes)
    rows, paths = _compared(planned.name, runs) if any(o.run for o in outcomes) else ([], {})
    if as_json:
        cells = [
            {"values": o.values, "status": o.status, "run": o.run, "error": o.error}
            for o in outcomes
        ]
        status = {0: "finished", 130: "interrupted"}.get(code, "failed")
        files = {kind: str(path) for kind, path in paths.items()}
        found = {"sweep": planned.name, "cells": cells, "rows": rows, "files": files}
        print_json({"status": status, "exit_code": code, **found})
    elif paths:
        print(paths["html"])
    raise typer.Exit(code)


def compare(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="The name of a sweep.")],
    *,
    metric: Annotated[str, typer.Option(help="Such as test/accuracy.")] = "",
    by: Annotated[str, typer.Option(help="last or best value of all rounds.")] = "last",
    baseline: Annotated[
        str, typer.Option(help="The setting to compare with, such as strategy.name=fedavg.")
    ] = "",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of the intervals.")
    ] = 0.95,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Compare the settings of a sweep: means over seeds, intervals, paired differences."""
    from fedsim.errors import ConfigError, Problem

    if by not in ("last", "best"):
        raise ConfigError([Problem("--by", by, "last or best")])
    options = {"metric": metric, "by": by, "baseline": baseline, "confidence": confidence}
    content, paths = _written(name, runs, options)
    if as_json:
        files = {kind: str(path) for kind, path in paths.items()}
        print_json({"status": "ok", "exit_code": 0, **content, "files": files})
        return
    _show(content)
    print(paths["html"])


def _compared(name: str, runs: str | None) -> tuple[list[Any], dict[str, Any]]:
    content, paths = _written(name, runs, {})
    if "--json" not in sys.argv:
        _show(content)
    return content["rows"], paths


def _written(name: str, runs: str | None, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from fedsim.report.sweep import write
    from fedsim.store import RunStore
    from fedsim.sweep import compare_sweep, sweep_folder

    store = RunStore(runs)
    content = compare_sweep(store, name, **options)
    return content, write(content, sweep_folder(store.root, name))


def _show(content: dict[str, Any]) -> None:
    from fedsim.report.sweep import COLUMNS, rows_of

    print_table(COLUMNS, rows_of(content), f"{content['metric']}, {content['by']} value")
    if content["missing"]:
        print(f"{len(content['missing'])} cells have no finished run")


def _tell(outcome: Any, done: int, count: int) -> None:
    values = " ".join(f"{key}={value}" for key, value in outcome.values.items())
    what = {"found": "done before"}.get(outcome.status, outcome.status)
    error = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
    sys.stderr.write(f"{done}/{count} {values}: {what}{error}\n")


def _exit_code(outcomes: list[Any]) -> int:
    found = {outcome.status for outcome in outcomes}
    if "interrupted" in found or "left" in found:
        return 130
    return 1 if "failed" in found else 0
