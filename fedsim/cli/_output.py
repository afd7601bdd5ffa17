"""What all commands share: errors, JSON, tables, options."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fedsim.errors import ConfigError

__all__ = ["DataDir", "Json", "RayAddress", "Runs", "fail", "print_json", "print_table"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Runs = Annotated[
    str | None,
    typer.Option("--runs", metavar="DIR|URL", help="The run store (FEDSIM_RUNS, default: runs)."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster: auto, HOST:PORT, ray://HOST:PORT or local (RAY_ADDRESS).",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="DIR", help="Where data files are (FEDSIM_DATA)."),
]


def print_json(content: Any) -> None:
    """Print one line of strict JSON on stdout."""
    sys.stdout.write(json.dumps(content, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table on stdout; plain and unwrapped when it is piped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*[Text(str(cell)) for cell in row])
    console.print(table)


def fail(error: BaseException, *, as_json: bool) -> None:
    """Say on stderr what went wrong, and as JSON on stdout where that was asked for."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        sys.stderr.write(f"error: the configuration has {count}:\n")
        for problem in problems:
            sys.stderr.write(f"  {problem.path} = {problem.value!r}\n")
            if problem.source:
                sys.stderr.write(f"      from      {problem.source}\n")
            sys.stderr.write(f"      accepted  {problem.accepted}\n")
            if problem.hint:
                sys.stderr.write(f"      {problem.hint}\n")
    else:
        sys.stderr.write(f"error: {error}\n")
    if as_json:
        keys = ("path", "value", "accepted", "hint", "source")
        print_json(
            {
                "status": "error",
                "exit_code": getattr(error, "exit_code", 1),
                "error": str(error),
                "problems": [{key: getattr(p, key) for key in keys} for p in problems],
            }
        )
