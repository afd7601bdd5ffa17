"""`fedsim privacy plan`: what epsilon costs in noise, rounds and clients; trains nothing."""

from typing import Annotated

import typer

from fedsim.cli._output import Json, print_json

__all__ = ["plan"]


def plan(
    delta: Annotated[float, typer.Option("--delta", help="Chance that epsilon does not hold.")],
    as_json: Json = False,
) -> None:
    """Solve for the one of epsilon, noise multiplier, rounds and cohort that is not given."""
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "delta": delta})
