"""`fedsim cluster`: what a Ray cluster has, and what it does."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from fedsim.cli._output import Json, RayAddress, print_json, print_table

if TYPE_CHECKING:
    from fedsim.engine.status import ClusterStatus

__all__ = ["app"]

app = typer.Typer(help="A Ray cluster: its nodes, and the runs on them.", no_args_is_help=True)


@app.callback()
def _cluster() -> None:
    """Keep `status` a subcommand: a Typer app with one command would be that command."""


@app.command()
def status(ray_address: RayAddress = None, as_json: Json = False) -> None:
    """Show the nodes of a cluster, what is in use there, and what each run of fedsim does."""
    from fedsim.engine.cluster import look

    found = look(ray_address)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **found.to_dict()})
        return
    _print(found)


def _print(found: "ClusterStatus") -> None:
    from time import time

    from fedsim.report.section import bytes_text, seconds_text

    rows = [
        [
            node.name,
            f"{node.cpus_used:g} of {node.cpus:g}",
            f"{node.gpus_used:g} of {node.gpus:g} {node.accelerator}".rstrip()
            if node.gpus
            else "-",
            bytes_text(node.memory_bytes),
            f"{bytes_text(node.store_used_bytes)} of {bytes_text(node.store_bytes)}",
            "; ".join(f"{run}: {_states(own)}" for run, own in found.on(node.id).items()) or "-",
        ]
        for node in found.nodes
    ]
    columns = ["node", "CPUs in use", "GPUs in use", "memory", "object store", "workers of runs"]
    print_table(columns, rows, title=f"Ray cluster at {found.address}")
    if not found.runs:
        return
    rows = [
        [
            run.run,
            f"{run.host}, process {run.pid}",
            seconds_text(time() - run.started),
            _states(_all(run.workers)),
            f"{run.clients_done:,}, {run.waiting:,} waiting",
            "-" if run.clients_per_second is None else f"{run.clients_per_second:g}",
            f"{seconds_text(max(0.0, time() - run.at))} ago",
        ]
        for run in found.runs
    ]
    columns = ["run", "started by", "for", "workers", "clients done", "clients/s", "last heard"]
    print_table(columns, rows)


def _states(states: Mapping[str, int]) -> str:
    """Say how many workers do what.

    >>> _states({"idle": 1, "busy": 2})
    '2 busy, 1 idle'
    """
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "-"


def _all(workers: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """Add up the workers on all nodes, by what they do."""
    return sum((Counter(own) for own in workers.values()), Counter())
