"""`fedsim reproduce`: published tables, run again."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._output import DataDir, Json, Runs, print_json, print_table

__all__ = ["reproduce"]


def reproduce(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME ...]")] = None,
    *,
    is_list: Annotated[bool, typer.Option("--list", help="List the tables there are.")] = False,
    is_all: Annotated[
        bool, typer.Option("--all", help="All tables, in their published settings: many hours.")
    ] = False,
    is_full: Annotated[
        bool, typer.Option("--full", help="The published settings of the tables that are named.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Write OUTPUT.md, .json and .html; default: in the run store."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    runs: Runs = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run published tables again: published value, ours over seeds, band, PASS or FAIL.

    Without a name: all tables, shortened where they would take long. The exit code is 1 where a row
    fails or cannot be run. The same command again runs only what is not done yet.
    """
    from fedsim.reproduce import judge, tables, write
    from fedsim.reproduce import reproduce as run_table
    from fedsim.reproduce._table import load

    chosen = [load(name) for name in names or tables()]
    if is_list:
        _list(chosen, as_json=as_json)
        return
    is_full = is_full or is_all
    found = []
    for table in chosen:
        sys.stderr.write(f"{table.title}\n")
        measured = run_table(
            table, is_full=is_full, runs=runs, data_dir=data_dir, jobs=jobs, tell=_tell
        )
        found.append((table, is_full, judge(table, measured, is_full=is_full)))
        if not as_json:
            _show(table, found[-1][2])
    from fedsim.store import RunStore

    paths = write(found, output or RunStore(runs).root / "reproductions")
    statuses = {verdict.status for _, _, verdicts in found for verdict in verdicts}
    code = 1 if statuses & {"FAIL", "not run"} else 0
    if as_json:
        files = [str(path) for path in paths]
        print_json({"status": "failed" if code else "ok", "exit_code": code, "files": files})
    else:
        print(paths[-1])
    raise typer.Exit(code)


def _list(chosen: list[Any], *, as_json: bool) -> None:
    rows = [
        [t.name, f"{t.full.minutes:g}", f"{t.short.minutes:g}" if t.short else "-", t.title]
        for t in chosen
    ]
    if as_json:
        keys = ("name", "full_minutes", "short_minutes", "title")
        found = [dict(zip(keys, row, strict=True)) for row in rows]
        print_json({"status": "ok", "exit_code": 0, "tables": found})
    else:
        print_table(["name", "minutes", "short", "what"], rows)


def _show(table: Any, verdicts: list[Any]) -> None:
    rows = [[v.what, v.published, v.ours, v.band, v.status] for v in verdicts]
    print_table(["row", "published", "ours", "band", ""], rows, table.title)


def _tell(outcome: Any, done: int, count: int) -> None:
    error = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
    values = f"{outcome.values['row']}, seed {outcome.values['seed']}"
    sys.stderr.write(f"  {done}/{count} {values}: {outcome.status}{error}\n")
