"""`fedsim report`: write a run's report again."""

from typing import Annotated

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import Json, Runs, print_json, print_table

__all__ = ["report"]


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id, name or 'last'.", autocompletion=run_names)
    ],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write the HTML and JSON report of a run from the store; print the path of the HTML.

    Of a run with a virtual clock, print what it took to reach an accuracy, too.
    """
    from fedsim.api import write_report
    from fedsim.report.sections.simulated_time import COLUMNS, reached, row
    from fedsim.store import RunStore

    store = RunStore(runs)
    stored = store.get(run)
    path = write_report(store, stored.id)
    found = reached(stored)
    if as_json:
        content = {"status": "ok", "exit_code": 0, "run": stored.id, "report": str(path)}
        print_json({**content, "reached": found} if found else content)
        return
    if found:
        print_table(COLUMNS, [row(entry) for entry in found])
    print(path)
