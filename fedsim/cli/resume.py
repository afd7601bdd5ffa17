"""`fedsim resume`: go on with a run."""

from typing import Annotated

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import DataDir, Json, RayAddress, Runs

__all__ = ["resume"]


def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id, name or 'last'.", autocompletion=run_names)
    ],
    runs: Runs = None,
    data_dir: DataDir = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Go on with a run after its last checkpoint; the result is that of an uninterrupted run."""
    from fedsim import api
    from fedsim.cli._progress import progress
    from fedsim.cli._result import print_result

    with progress() as listener:
        result = api.resume(
            run, runs=runs, data_dir=data_dir, ray_address=ray_address, listener=listener
        )
    print_result(result, as_json=as_json)
