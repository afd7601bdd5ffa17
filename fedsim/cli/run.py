"""`fedsim run`: run an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli._complete import experiment_names
from fedsim.cli._output import DataDir, Json, RayAddress, Runs
from fedsim.errors import ConfigError, Problem

__all__ = ["run"]

DEFAULT = "digits"


def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT] [key=value ...]",
            help="A TOML file, a built-in experiment (default: digits) or the folder of a Flower "
            "app, then overrides.",
            autocompletion=experiment_names,
        ),
    ] = None,
    *,
    runs: Runs = None,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Ray workers: short for engine.workers=N.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="Of a Flower app: how many clients to simulate.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="ray or inprocess: engine.grid=...")] = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Run an experiment; what it comes to goes to stdout, the report's path last.

    The folder of a Flower app is run as it is, on simulated clients; overrides are those of its run
    config.
    """
    experiment, overrides = split(arguments or [])
    if _is_folder(experiment):
        from fedsim.cli._flower import run_app

        run_app(
            Path(experiment),
            overrides,
            clients=clients,
            workers=workers,
            grid=grid,
            ray_address=ray_address,
            as_json=as_json,
        )
        return
    if clients is not None:
        accepted = "for Flower apps; an experiment says it in partition.clients or its data"
        raise ConfigError([Problem("--clients", clients, accepted)])
    if workers is not None:
        overrides.append(f"engine.workers={workers}")
    if grid is not None:
        overrides.append(f"engine.grid={grid}")
    if ray_address is not None:
        overrides.append(f"engine.ray_address={ray_address}")
    from fedsim.ahead import ray_ahead
    from fedsim.environment import without_collector

    with ray_ahead(experiment, overrides):
        with without_collector():
            from fedsim import api
            from fedsim.cli._progress import progress
            from fedsim.cli._result import print_result

        with progress() as listener:
            result = api.run(experiment, overrides, runs=runs, data_dir=data_dir, listener=listener)
    print_result(result, as_json=as_json)


def _is_folder(name: str) -> bool:
    """Say if a name is a folder's; a built-in experiment goes before a folder of its name."""
    if not Path(name).is_dir():
        return False  # without importing torch: `fedsim.ahead` has Ray start first
    from fedsim.config import experiments

    return name not in experiments()


def split(arguments: list[str]) -> tuple[str, list[str]]:
    """Tell the experiment from the overrides: it comes first and has no `=`.

    >>> split(["rounds.count=3"])
    ('digits', ['rounds.count=3'])
    """
    if arguments and "=" not in arguments[0]:
        return arguments[0], list(arguments[1:])
    return DEFAULT, list(arguments)
