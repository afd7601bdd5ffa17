"""Ray itself: one of the run's own on this machine, or a cluster that runs there already.

Runs that join the same cluster share it by Ray's accounting: a worker starts where a core is free,
and waits where none is. Nothing that Ray counts about its users leaves the machine.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from fedsim import environment
from fedsim.config import ADDRESSES, is_address
from fedsim.config.schema import Engine
from fedsim.engine.nodes import name_of
from fedsim.engine.own_ray import address_of, behind, imported, is_own, others, quiet
from fedsim.engine.placement import Node, of_one_kind
from fedsim.engine.status import ClusterStatus, read
from fedsim.errors import ConfigError, Problem, SetupError

__all__ = [
    "Resources",
    "is_joined",
    "joined",
    "resources",
    "shared",
    "started_behind",
]

_ANSWER_S = 5.0
_CLIENT = "ray://"
_OTHERS = (
    "another Ray runs on this machine and knows nothing of this run: together they use every core "
    "twice. Runs that join one Ray share it (RAY_ADDRESS=auto, engine.ray_address)"
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What the workers of a run may share: nodes of a cluster, or this machine as the only one.

    `accelerator`: the type of GPU they all have, in Ray's words, where it is known. `notice`: what
    of the cluster is left alone, and why; or who uses this machine besides.
    """

    nodes: tuple[Node, ...]
    accelerator: str = ""
    notice: str = ""

    @property
    def cpus(self) -> int:
        """Return the cores of all nodes."""
        return int(sum(node.cpus for node in self.nodes))

    @property
    def gpus(self) -> int:
        """Return the GPUs of all nodes."""
        return int(sum(node.gpus for node in self.nodes))


@contextmanager
def joined(engine: Engine, *, show_output: bool = False) -> Iterator[Resources]:
    """Be connected to the Ray cluster that a run is to join, if any; nothing is started.

    Yields what its workers may share: the cluster's, or this machine's. In the end the connection
    is closed, unless it was there before. Raises `SetupError` where no cluster answers.
    """
    address = _address(engine)
    is_ours = bool(address) and _join(address, show_output)
    try:
        yield resources(engine)
    finally:
        if is_ours:
            imported().shutdown()


def started_behind(engine: Engine, resources: Resources) -> AbstractContextManager[None]:
    """Start a Ray of the run's own behind what this process does; in the end stop it.

    Nothing is started where a run needs no Ray, joins one, or has one already.
    """
    if engine.grid == "inprocess" or _address(engine) or is_own() or imported().is_initialized():
        return nullcontext()
    return behind(engine.workers or resources.cpus, resources.gpus)


def is_joined(engine: Engine) -> bool:
    """Say whether a run joins a cluster, whose nodes may be other machines."""
    return bool(_address(engine))


def resources(engine: Engine) -> Resources:
    """Return what the workers of a run may share now."""
    gpus = 0 if engine.device == "cpu" else torch.cuda.device_count()
    ray = sys.modules.get("ray")  # who is connected has imported it, which takes most of a second
    is_alone = engine.grid == "inprocess" or is_own()
    if is_alone or ray is None or not ray.is_initialized():
        # A Ray of the run's own has a core for every worker, whatever the machine has.
        cores = max(environment.cpu_limit(), engine.workers or 0)
        notice = _OTHERS if engine.grid != "inprocess" and others() else ""
        return Resources((Node("this machine", cores, gpus),), notice=notice)
    # The server's device decides: workers have GPUs where it has one.
    return shared([node for node in ray.nodes() if node["Alive"]], _own_node(ray), on_gpu=gpus > 0)


def shared(nodes: Sequence[Mapping[str, Any]], own: str, *, on_gpu: bool) -> Resources:
    """Choose what a run takes of a cluster's nodes (as of `ray.nodes()`): those of one device.

    `own`: the id of the server's node, "" where it has none.
    """
    found = {node["NodeID"]: _offer(node) for node in nodes}
    mine = found.get(own)
    chosen = of_one_kind(
        list(found.values()), on_gpu=on_gpu, accelerator=mine.accelerator if mine else ""
    )
    kind = next((node.accelerator for node in chosen if node.accelerator), "") if on_gpu else ""
    return Resources(tuple(chosen), kind, _notice(list(found.values()), kind, on_gpu=on_gpu))


def look(address: str | None = None) -> ClusterStatus:
    """Ask a cluster's head which nodes there are, and what runs of fedsim do on them.

    `address`: as for `engine.ray_address`; the default is RAY_ADDRESS, then the Ray on this
    machine. Where the head is asked directly, nothing is joined. Raises `ConfigError` for what is
    no address, `SetupError` where no cluster answers.
    """
    if address and not is_address(address):
        raise ConfigError([Problem("--ray-address", address, ADDRESSES)])
    engine = Engine(ray_address=address)
    place = _address(engine) or "auto"
    ray = imported()
    if place.startswith(_CLIENT):
        with joined(engine):
            return _look_behind(ray, place)
    try:
        place = _found() if place == "auto" else place
        _ask(place)
        return read(import_module("ray._raylet").GcsClient(address=place), place)
    except Exception as error:  # Ray and gRPC raise what they like, even bare ones
        raise _no_cluster(place, error) from error


def _look_behind(ray: Any, address: str) -> ClusterStatus:
    """Have a worker of the cluster ask its head: Ray Client's server passes no such questions."""

    def ask() -> ClusterStatus:
        from ray._private.worker import global_worker

        return read(global_worker.gcs_client, address)

    found: ClusterStatus = ray.get(ray.remote(num_cpus=0)(ask).remote())
    return found


def _offer(node: Mapping[str, Any]) -> Node:
    has = node["Resources"]
    prefix = "accelerator_type:"
    kind = next((key.removeprefix(prefix) for key in sorted(has) if key.startswith(prefix)), "")
    return Node(name_of(node), has.get("CPU", 0.0), has.get("GPU", 0.0), kind)


def _notice(nodes: Sequence[Node], kind: str, *, on_gpu: bool) -> str:
    """Say which GPUs or nodes of a cluster a run leaves alone: one device, the same bits."""
    if not on_gpu:
        gpus = sum(node.gpus for node in nodes)
        text = (
            f"the cluster has {gpus:g} GPU(s), but the server has none here: clients run on CPUs. "
            "Start the run on a node with a GPU to use them"
        )
        return text if gpus else ""
    others = [node.name for node in nodes if not node.gpus or node.accelerator not in ("", kind)]
    text = f"clients run on GPUs{f' of type {kind}' if kind else ''} only: not on"
    return f"{text} {', '.join(others)}" if others else ""


def _own_node(ray: Any) -> str:
    """Return the id of the node this process is on; "" behind Ray Client."""
    if ray.util.client.ray.is_connected():
        return ""
    return str(ray.get_runtime_context().get_node_id())


def _address(engine: Engine) -> str:
    """Return where the cluster is that a run joins; empty for a Ray of its own, or none."""
    return "" if engine.grid == "inprocess" else address_of(engine.ray_address)


def _join(address: str, show_output: bool) -> bool:
    """Connect to a cluster; False if this process is connected already."""
    ray = imported()
    if ray.is_initialized():
        return False
    try:
        place = _found() if address == "auto" else address
        _ask(place)
        ray.init(address=place, **quiet(show_output))
    except Exception as error:  # Ray and gRPC raise what they like, even bare ones
        raise _no_cluster(address, error) from error
    return True


def _no_cluster(address: str, error: BaseException) -> SetupError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = f"{lines[0]} {lines[-1].strip()}" if lines[0].endswith(":") else lines[0]
    hint = ""
    if "node_ip_address" in reason or "raylet" in reason.lower():
        hint = " This machine is not one of its nodes: join through ray://HOST:10001."
    return SetupError(
        f"no Ray cluster to join at {address} ({reason}).{hint} Start one with `ray start --head`, "
        "correct engine.ray_address or RAY_ADDRESS, or set it to 'local' for a Ray of the "
        "run's own (RAY_ADDRESS=local to resume a run)"
    )


def _found() -> str:
    """Find the Ray that runs on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address("auto"))


def _ask(place: str) -> None:
    """Ask a cluster how it is: it answers at once, while connecting is tried for minutes.

    Ray Client's server (ray://) does not know the question, which is an answer too.
    """
    from ray._private.grpc_utils import init_grpc_channel

    options = [("grpc.enable_http_proxy", 0)]
    with init_grpc_channel(place.removeprefix(_CLIENT), options) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=_ANSWER_S)
        except Exception as error:
            code, details = error.code().name, error.details()  # type: ignore[attr-defined]
            if not (place.startswith(_CLIENT) and code == "UNIMPLEMENTED"):
                raise ConnectionError(f"{code}: {details}") from None
