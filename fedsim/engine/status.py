"""What a cluster's nodes do: runs say so in Ray's own key-value store, and anybody may read it.

The store is that of Ray's head (its GCS): it outlives the process of a run, needs no actor that
could die or take a core, and is read without joining the cluster, from any machine that reaches its
head.
"""

import json
import os
import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import time
from typing import Any

from fedsim.engine.nodes import name_of

__all__ = ["Bulletin", "ClusterStatus", "NodeStatus", "RunStatus", "read", "tally"]

_NAMESPACE = "fedsim-runs"
_EVERY_S = 1.0
_SPEED_OVER_S = 10.0


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run of fedsim on a cluster, as it said itself at `at` (seconds since 1970).

    `workers`: by the id of a node, how many are busy and idle there; those under "" wait for room.
    `waiting`: clients that nobody works on yet. `clients_per_second`: of the last ten seconds in
    which it asked clients; None before the first has answered.
    """

    run: str
    host: str
    pid: int
    job: str
    started: float
    at: float
    workers: Mapping[str, Mapping[str, int]]
    clients_done: int
    waiting: int
    clients_per_second: float | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that is alive: what it has in all, and what is in use, by Ray's accounting.

    `memory_bytes`: what Ray may give to workers; `store_bytes`: of its shared object store.
    """

    id: str
    name: str
    cpus: float
    cpus_used: float
    gpus: float
    gpus_used: float
    accelerator: str
    memory_bytes: float
    store_bytes: float
    store_used_bytes: float


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster at a moment: its nodes, and the runs of fedsim on it."""

    address: str
    nodes: Sequence[NodeStatus]
    runs: Sequence[RunStatus]

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is printed by `--json`; a node has what runs do there."""
        nodes = [asdict(node) | {"runs": self.on(node.id)} for node in self.nodes]
        return {"address": self.address, "nodes": nodes, "runs": [asdict(run) for run in self.runs]}

    def on(self, node: str) -> dict[str, Mapping[str, int]]:
        """Return, by run, the workers on a node."""
        return {run.run: run.workers[node] for run in self.runs if node in run.workers}


@dataclass(slots=True)
class Bulletin:
    """Where a run says what its workers do, at most once a second."""

    ray: Any
    run: str
    done: int = 0
    _started: float = field(default_factory=time)
    _said: float = 0.0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def say(self, workers: Mapping[str, Mapping[str, int]], waiting: int) -> None:
        """Say what the workers do, unless that was just said."""
        now = time()
        if not self.run or now < self._said + _EVERY_S:
            return
        self._said = now
        self._mark(now)
        job = self.ray.get_runtime_context().get_job_id()
        status = RunStatus(
            self.run,
            socket.gethostname(),
            os.getpid(),
            job,
            self._started,
            now,
            workers,
            self.done,
            waiting,
            self._speed(),
        )
        _store()._internal_kv_put(self._key(job), json.dumps(asdict(status)), namespace=_NAMESPACE)

    def end(self) -> None:
        """Take back what was said: the run is over."""
        if self._said:
            job = self.ray.get_runtime_context().get_job_id()
            _store()._internal_kv_del(self._key(job), namespace=_NAMESPACE)

    def _key(self, job: str) -> str:
        return f"{job}/{self.run}"

    def _mark(self, now: float) -> None:
        # A pause between rounds is no time in which clients were asked.
        if self._marks and now > self._marks[-1][0] + 3 * _EVERY_S:
            self._marks.clear()
        self._marks.append((now, self.done))
        while self._marks[0][0] < now - _SPEED_OVER_S:
            self._marks.popleft()

    def _speed(self) -> float | None:
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        return round((after - before) / (last - first), 2) if after > before else None


def _store() -> Any:
    """Return Ray's key-value store, of the cluster that this process is connected to."""
    from ray.experimental import internal_kv

    return internal_kv


def tally(states: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Count workers by node and by what they do.

    >>> tally([("a", "busy"), ("a", "idle"), ("a", "busy"), ("", "starting")])
    {'a': {'busy': 2, 'idle': 1}, '': {'starting': 1}}
    """
    found: dict[str, dict[str, int]] = {}
    for (node, state), count in Counter(states).items():
        found.setdefault(node, {})[state] = count
    return found


def read(gcs: Any, address: str) -> ClusterStatus:
    """Read what a cluster's head knows through its client `gcs`, without runs that are gone.

    Raises what Ray raises where the head does not answer.
    """
    living = {id.hex() for id, job in gcs.get_all_job_info().items() if not job.is_dead}
    runs = []
    for key in gcs.internal_kv_keys(b"", _NAMESPACE.encode()):
        value = gcs.internal_kv_get(key, _NAMESPACE.encode())
        if value is not None and key.decode().partition("/")[0] in living:
            runs.append(RunStatus(**json.loads(value)))
    runs.sort(key=lambda run: run.started)
    return ClusterStatus(address, _nodes(gcs), runs)


def _nodes(gcs: Any) -> list[NodeStatus]:
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    reply = gcs.get_all_resource_usage()
    free = {
        entry.node_id: dict(entry.resources_available) for entry in reply.resource_usage_data.batch
    }
    found = [
        _node(id.hex(), node, free.get(id.binary(), dict(node.resources_total)))
        for id, node in gcs.get_all_node_info().items()
        if node.state == GcsNodeInfo.ALIVE
    ]
    return sorted(found, key=lambda node: (node.name, node.id))


def _node(id: str, node: Any, free: Mapping[str, float]) -> NodeStatus:
    total = dict(node.resources_total)
    names = ("NodeName", "NodeManagerHostname", "NodeManagerAddress")
    values = (node.node_name, node.node_manager_hostname, node.node_manager_address)
    prefix = "accelerator_type:"
    kinds = sorted(key.removeprefix(prefix) for key in total if key.startswith(prefix))

    def used(resource: str) -> float:
        return float(total.get(resource, 0) - free.get(resource, 0))

    return NodeStatus(
        id=id,
        name=name_of(dict(zip(names, values, strict=True))),
        cpus=total.get("CPU", 0.0),
        cpus_used=used("CPU"),
        gpus=total.get("GPU", 0.0),
        gpus_used=used("GPU"),
        accelerator=", ".join(kinds),
        memory_bytes=total.get("memory", 0.0),
        store_bytes=total.get("object_store_memory", 0.0),
        store_used_bytes=used("object_store_memory"),
    )
