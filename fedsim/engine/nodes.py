"""What a run knows of a cluster's nodes: their names, whether they live, which cannot serve it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedsim.engine.actor import WorkerSettings
from fedsim.errors import RunFailedError

__all__ = ["Nodes", "name_of"]

_LAST_REPORT = 2  # the second worker that says so: then a node is left alone
_NODE_ID = "ray.io/node-id"  # a label that Ray gives every node


def name_of(node: Mapping[str, Any]) -> str:
    """Return what people call a node: the name it was given or its host's, and its address.

    >>> name_of({"NodeName": "10.0.0.2", "NodeManagerHostname": "gpu-2",
    ...          "NodeManagerAddress": "10.0.0.2"})
    'gpu-2 (10.0.0.2)'
    """
    address = node["NodeManagerAddress"]
    name = node.get("NodeName") or address
    return f"{node['NodeManagerHostname'] if name == address else name} ({address})"


class Nodes:
    """The nodes of the cluster that this process is connected to, as Ray knows them now."""

    def __init__(self, ray: Any, settings: WorkerSettings) -> None:
        self._ray, self._settings = ray, settings
        self._reports: Counter[str] = Counter()
        #: By id: why no more workers are started on a node.
        self.refused: dict[str, str] = {}

    def name(self, id: str) -> str:
        """Return what people call a node."""
        return next((name_of(node) for node in self._ray.nodes() if node["NodeID"] == id), id[:12])

    def is_alive(self, id: str) -> bool:
        """Say whether Ray takes a node to be alive."""
        return any(node["Alive"] for node in self._ray.nodes() if node["NodeID"] == id)

    def report(self, id: str, problem: str) -> str:
        """Note that a worker on a node cannot run clients; return what to tell of it, if news."""
        self._reports[id] += 1
        if self._reports[id] < _LAST_REPORT or id in self.refused:
            return ""
        self.refused[id] = problem
        return f"node {self.name(id)} cannot run clients: {problem}"

    def require(self) -> None:
        """Raise `RunFailedError` where there is no node left on which a worker could start."""
        if self.refused and not self._able():
            reasons = [f"node {self.name(id)}: {why}" for id, why in self.refused.items()]
            raise RunFailedError(f"no node can run clients: {'; '.join(reasons)}")

    def options(self) -> dict[str, Any]:
        """Return what an actor has to ask for, so that it starts where it can run clients."""
        if not self.refused:
            return {}
        return {"label_selector": {_NODE_ID: f"!in({','.join(sorted(self.refused))})"}}

    def _able(self) -> bool:
        """Say whether there is a node that is not refused and has what a worker asks for."""
        wanted = {"CPU": self._settings.cpus, "GPU": self._settings.gpus}
        return any(
            node["Alive"]
            and node["NodeID"] not in self.refused
            and all(node["Resources"].get(kind, 0) >= count for kind, count in wanted.items())
            for node in self._ray.nodes()
        )
