"""`fedsim privacy check`: what could make a run less private than its epsilon says."""

from typing import Annotated

import typer

from fedsim.cli._complete import experiment_names
from fedsim.cli._output import DataDir, Json, Runs, print_json, print_table

__all__ = ["check"]


def check(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT] [key=value ...]", autocompletion=experiment_names),
    ] = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look for pitfalls in an experiment: its model, settings, data, and what was spent before.

    Exit code 2 where something fails; nothing is trained and nothing is spent.
    """
    from dataclasses import asdict

    from fedsim import api
    from fedsim.cli.run import split

    experiment, overrides = split(arguments or [])
    found = api.check_privacy(experiment, overrides, runs=runs, data_dir=data_dir)
    failed = sum(finding.status == "fail" for finding in found)
    code = 2 if failed else 0
    if as_json:
        status = "failed" if failed else "ok"
        findings = [asdict(finding) for finding in found]
        print_json({"status": status, "exit_code": code, "findings": findings})
    else:
        rows = [
            [f.status.upper() if f.status == "fail" else f.status, f.name, f.found, f.fix]
            for f in found
        ]
        print_table(["", "pitfall", "found", "fix"], rows)
        notes = sum(finding.status == "note" for finding in found)
        print(f"{len(found)} looked at: {failed} failed, {notes} to note")
    raise typer.Exit(code)
