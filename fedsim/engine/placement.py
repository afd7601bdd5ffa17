"""Where the workers of a run fit: how many on each node of a Ray cluster, on what share of a GPU.

Ray puts an actor onto one node, never across two, so what counts is what fits on each of them: two
nodes of one and a half cores have room for two workers, not for three. A run has one kind of
device, because another kind rounds differently and its model would have other bits: on GPUs it
takes nodes that have some, all of one type; on CPUs it takes the cores of all nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.config.schema import Engine
from fedsim.errors import ConfigError, Problem

__all__ = ["Node", "gpu_share", "of_one_kind", "places", "worker_count"]

_WORKERS_PER_GPU = 4
_UNIT = 10_000  # parts of a resource that Ray tells apart
_HAIR = 1e-6


@dataclass(frozen=True, slots=True)
class Node:
    """What one node offers: cores and GPUs; `accelerator` is Ray's word for the type of these."""

    name: str
    cpus: float
    gpus: float = 0.0
    accelerator: str = ""

    def places(self, share: float) -> int:
        """Return how many workers fit that ask for one core and `share` of a GPU each.

        >>> Node("a", cpus=6, gpus=1).places(0.25), Node("a", cpus=2.5).places(0)
        (4, 2)
        """
        cores = math.floor(self.cpus + _HAIR)
        if not share:
            return cores
        if share >= 1:
            return min(cores, math.floor(self.gpus / share + _HAIR))
        whole = math.floor(self.gpus + _HAIR)
        on_whole = whole * math.floor(1 / share + _HAIR)
        return min(cores, on_whole + math.floor((self.gpus - whole) / share + _HAIR))


def of_one_kind(nodes: Sequence[Node], *, on_gpu: bool, accelerator: str = "") -> list[Node]:
    """Return the nodes as a run sees them: for the CPU without GPUs, else only those of one type.

    `accelerator`: the type of GPU of the server's own node; empty takes any that says no other.

    >>> nodes = [Node("a", 8), Node("b", 4, 1, "H100"), Node("c", 4, 2, "T4")]
    >>> [node.name for node in of_one_kind(nodes, on_gpu=True, accelerator="T4")]
    ['c']
    """
    if not on_gpu:
        return [Node(node.name, node.cpus) for node in nodes]
    with_gpu = [node for node in nodes if node.gpus]
    kind = accelerator or next((node.accelerator for node in with_gpu if node.accelerator), "")
    return [node for node in with_gpu if node.accelerator in ("", kind)]


def places(nodes: Sequence[Node], share: float) -> int:
    """Return how many workers fit on the nodes together."""
    return sum(node.places(share) for node in nodes)


def worker_count(engine: Engine, nodes: Sequence[Node], clients: int) -> int:
    """Return how many workers a run gets: what was asked for, else one per core or GPU share."""
    if engine.grid == "inprocess":
        return 1
    if engine.workers is not None:
        return engine.workers
    has_gpus = any(node.gpus for node in nodes)
    share = engine.gpus_per_worker or (1 / _WORKERS_PER_GPU if has_gpus else 0.0)
    return max(1, min(places(nodes, share), clients))


def gpu_share(engine: Engine, workers: int, nodes: Sequence[Node]) -> float:
    """Return what part of a GPU each worker asks for, unless told: the most with which all fit.

    Above one Ray gives whole GPUs only; below one it never joins parts of two. Raises `ConfigError`
    where more GPUs are asked for than a node has.
    """
    most = max((node.gpus for node in nodes), default=0.0)
    asked = engine.gpus_per_worker or 0.0
    if asked > most:
        accepted = f"at most {most:g}, the GPUs there are on one machine"
        raise ConfigError([Problem("engine.gpus_per_worker", asked, accepted)])
    if asked or not most:
        return asked
    wanted = min(workers, places([node for node in nodes if node.gpus], 1 / _UNIT))
    whole = (float(count) for count in range(int(most), 0, -1))
    # Rounded down to what Ray tells apart: six times 0.1667 would be more than one GPU.
    parts = (math.floor(_UNIT / count) / _UNIT for count in range(2, max(2, workers) + 1))
    found = [share for share in (*whole, *parts) if places(nodes, share) >= wanted]
    return found[0] if found else 1 / _UNIT
