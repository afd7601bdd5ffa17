"""`fedsim plan`: what an experiment would do and cost, without training."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fedsim.cli._complete import experiment_names
from fedsim.cli._output import DataDir, Json, RayAddress, print_json, print_table

__all__ = ["plan"]


def plan(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT] [key=value ...]", autocompletion=experiment_names),
    ] = None,
    data_dir: DataDir = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Say what an experiment would do: clients, bytes, memory, time from a short probe."""
    from fedsim import api
    from fedsim.cli.run import split
    from fedsim.report.section import bytes_text, seconds_text

    experiment, overrides = split(arguments or [])
    if ray_address is not None:
        overrides.append(f"engine.ray_address={ray_address}")
    found = api.plan(experiment, overrides, data_dir=data_dir)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    secure = found["secure_sum"]
    rows = [
        [
            "clients",
            f"{found['clients']:,}, {found['cohort']:,} asked each of {found['rounds']} rounds",
        ],
        [
            "training examples",
            f"{found['examples']:,} ({found['smallest']} to {found['largest']} each)",
        ],
        ["model", f"{found['parameters']:,} numbers, {bytes_text(found['model_bytes'])}"],
        ["sent down", f"{bytes_text(found['bytes_down'])} in all"],
        ["sent up", f"{bytes_text(found['bytes_up'])} in all"],
        *([["secure sum", _secure_sum(secure)]] if secure else []),
        ["workers", f"{found['workers']} ({found['grid']}, {found['device']})"],
        ["memory", f"about {bytes_text(found['memory_bytes'])} on this machine"],
        ["checkpoints", bytes_text(found["checkpoint_bytes"])],
        ["precision of sums", f"2^-{found['fraction_bits']} per weighted coordinate"],
        ["estimated time", f"{seconds_text(found['estimated_seconds'])} (from one client's probe)"],
    ]
    print_table([f"{found['name']}: nothing was trained", ""], rows)


def _secure_sum(facts: Mapping[str, Any]) -> str:
    """Say in a line which secure sum there would be."""
    from fedsim.secagg.ckks import TRUST

    masks = "no masks: simulated"
    if facts["name"] == "ckks":
        masks = TRUST
    if facts["graph"] != "none":
        masks = f"{facts['graph']} graph, {facts['neighbours']} neighbours each"
    return (
        f"{facts['name']} ({masks}), {facts['bits']} bits a number, at least "
        f"{facts['least_survivors']} of {facts['cohort']} clients in a sum"
    )
