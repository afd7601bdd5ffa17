"""`fedsim explain`: what a part is, its fields, its source."""

from typing import Annotated

import typer

from fedsim.cli._complete import part_names
from fedsim.cli._output import Json, print_json, print_table

__all__ = ["explain"]


def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Such as fedadam or partition.iid.", autocompletion=part_names
        ),
    ],
    as_json: Json = False,
) -> None:
    """Explain any strategy, local algorithm, model, data set, partition, optimizer or schedule."""
    from fedsim import config

    found = config.explain(name)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "parts": found})
        return
    for part in found:
        print(f"{part['group']}.{part['name']}: {part['summary']}\n")
        for text in (part["doc"], part["citation"]):
            if text:
                print(f"{text}\n")
        if part["fields"]:
            rows = [[f["name"], f["default"], f["accepted"]] for f in part["fields"]]
            print_table([f"[{part['section']}]", "default", "accepted"], rows)
            print()
        if part["legality"]:
            print_table(["goes with", ""], list(part["legality"].items()))
        print()
