"""`fedsim anonymize report`: the page of a report that is there as data."""

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli._output import Json, print_json

__all__ = ["report"]


def report(
    file: Annotated[
        Path, typer.Argument(metavar="JSON", help="The report that a run wrote as JSON.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="HTML", help="Where (default: beside it).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the HTML of a report again from its JSON; print its path."""
    from fedsim.report.anonymization import read, render

    path = output or file.with_suffix(".html")
    render(read(file), path)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "report": str(path)})
    else:
        print(path)
