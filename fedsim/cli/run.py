"""`fedsim run`: run an experiment."""

from typing import Annotated

import typer

from fedsim.cli._complete import experiment_names
from fedsim.cli._output import DataDir, Json, Runs

__all__ = ["run"]

DEFAULT = "digits"


def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT] [key=value ...]",
            help="A TOML file or a built-in experiment (default: digits), then overrides.",
            autocompletion=experiment_names,
        ),
    ] = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers: short for engine.workers=N.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="ray or inprocess: engine.grid=...")] = None,
    as_json: Json = False,
) -> None:
    """Run an experiment; what it comes to goes to stdout, the report's path last."""
    from fedsim import api
    from fedsim.cli._progress import progress
    from fedsim.cli._result import print_result

    experiment, overrides = split(arguments or [])
    if workers is not None:
        overrides.append(f"engine.workers={workers}")
    if grid is not None:
        overrides.append(f"engine.grid={grid}")
    with progress() as listener:
        result = api.run(experiment, overrides, runs=runs, data_dir=data_dir, listener=listener)
    print_result(result, as_json=as_json)


def split(arguments: list[str]) -> tuple[str, list[str]]:
    """Tell the experiment from the overrides: it comes first and has no `=`.

    >>> split(["rounds.count=3"])
    ('digits', ['rounds.count=3'])
    """
    if arguments and "=" not in arguments[0]:
        return arguments[0], list(arguments[1:])
    return DEFAULT, list(arguments)
