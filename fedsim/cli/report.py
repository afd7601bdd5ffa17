"""`fedsim report`: write a run's report again."""

from typing import Annotated

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import Json, Runs, print_json

__all__ = ["report"]


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id, name or 'last'.", autocompletion=run_names)
    ],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write the HTML and JSON report of a run from the store; print the path of the HTML."""
    from fedsim.api import write_report
    from fedsim.store import RunStore

    store = RunStore(runs)
    stored = store.get(run)
    path = write_report(store, stored.id)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "run": stored.id, "report": str(path)})
    else:
        print(path)
