"""Ray itself: one of the run's own on this machine, or a cluster that runs there already.

Runs that join the same cluster share it by Ray's accounting: a worker starts where a core is free,
and waits where none is. Nothing that Ray counts about its users leaves the machine.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import psutil
import torch

from fedsim import environment
from fedsim.config import ADDRESSES, is_address
from fedsim.config.schema import Engine
from fedsim.engine.nodes import name_of
from fedsim.engine.placement import Node, of_one_kind
from fedsim.engine.status import ClusterStatus, read
from fedsim.errors import ConfigError, Problem, SetupError

__all__ = [
    "Resources",
    "is_joined",
    "joined",
    "resources",
    "shared",
    "started",
    "started_behind",
]

_ANSWER_S = 5.0
_CLIENT = "ray://"
_STORE_SHARE = 0.3  # of the memory that is free: Ray's own share
_INLINE_BYTES = 1 << 20  # of a result, in place of Ray's 100 KiB
_STORE_BYTES = 100 * 2**20, 10**10  # Ray refuses less; where more, it looks how large /dev/shm is
_NEEDLESS = "start_monitor", "start_api_server"  # methods of Ray's node
_PRELOAD = "RAY_preload_python_modules"
#: What workers of a simulation run (`launch.OURS`); most of what they import is torch.
_SIMULATION = "fedsim.engine.actor", "fedsim.clients.app", "fedsim.clients._block"
_START = threading.Lock()  # one start at a time: who comes second finds Ray running


@dataclass(frozen=True, slots=True)
class Resources:
    """What the workers of a run may share: nodes of a cluster, or this machine as the only one.

    `accelerator`: the type of GPU they all have, in Ray's words, where it is known. `notice`: what
    of the cluster is left alone, and why.
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
            _imported().shutdown()


@contextmanager
def started_behind(engine: Engine, resources: Resources) -> Iterator[None]:
    """Start a Ray of the run's own behind what this process does: it takes some seconds.

    Nothing is started where a run needs no Ray, or joins one. In the end Ray is stopped. What goes
    wrong here is not lost: `started` tries again, and raises.
    """
    if engine.grid == "inprocess" or _address(engine) or _imported().is_initialized():
        yield
        return
    workers, is_over = engine.workers or resources.cpus, threading.Event()

    def keep() -> None:
        # Ray says that it cannot take SIGTERM away from here; it is the run's anyway.
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
        with suppress(Exception), started(workers, resources.gpus, preload=_SIMULATION):
            is_over.wait()  # Ray's processes die with the thread that started them

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def is_joined(engine: Engine) -> bool:
    """Say whether a run joins a cluster, whose nodes may be other machines."""
    return bool(_address(engine))


def resources(engine: Engine) -> Resources:
    """Return what the workers of a run may share now."""
    gpus = 0 if engine.device == "cpu" else torch.cuda.device_count()
    ray = sys.modules.get("ray")  # who is connected has imported it, which takes most of a second
    if engine.grid == "inprocess" or ray is None or not ray.is_initialized():
        return Resources((Node("this machine", environment.cpu_limit(), gpus),))
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
    ray = _imported()
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


@contextmanager
def started(
    workers: int, gpus: int = 0, *, show_output: bool = False, preload: Sequence[str] = ()
) -> Iterator[None]:
    """Have Ray run on this machine, without telemetry or dashboard; whoever started it stops it.

    `show_output`: print here what workers print. `preload`: modules that its workers import while
    they start, before they have anything to do.
    Ray's own processes listen on this machine's addresses, as Ray always does.
    """
    is_ours = _start(workers, gpus, show_output=show_output, preload=preload)
    try:
        yield
    finally:
        if is_ours:
            _imported().shutdown()


def _start(workers: int, gpus: int, *, show_output: bool, preload: Sequence[str]) -> bool:
    """Start Ray; False if it ran already."""
    with _START:
        ray = _imported()
        if ray.is_initialized():
            return False
        needless = _NEEDLESS if show_output else (*_NEEDLESS, "start_log_monitor")
        with _without(ray._private.node.Node, needless), _preloading(preload):
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=gpus,
                object_store_memory=_store_bytes(),
                include_dashboard=False,
                **_quiet(show_output),
            )
        return True


@contextmanager
def _without(node: Any, methods: Sequence[str]) -> Iterator[None]:
    """Have Ray's node not start what nobody uses here: no option of Ray's leaves it out.

    Python processes that scale clusters, serve a dashboard and hand on what workers print: half of
    the time that Ray takes to start.
    """
    kept = {name: getattr(node, name) for name in methods if hasattr(node, name)}
    for name in kept:
        setattr(node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(node, name, method)


@contextmanager
def _preloading(modules: Sequence[str]) -> Iterator[None]:
    """Tell Ray, when it starts, what its workers are to import."""
    os.environ[_PRELOAD] = ",".join(modules)
    try:
        yield
    finally:
        del os.environ[_PRELOAD]


def _address(engine: Engine) -> str:
    """Return where the cluster is that a run joins; empty for a Ray of its own, or none."""
    address = engine.ray_address or ""
    if address in ("", "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    return "" if engine.grid == "inprocess" or address == "local" else address


def _join(address: str, show_output: bool) -> bool:
    """Connect to a cluster; False if this process is connected already."""
    ray = _imported()
    if ray.is_initialized():
        return False
    try:
        place = _found() if address == "auto" else address
        _ask(place)
        ray.init(address=place, **_quiet(show_output))
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


def _imported() -> Any:
    """Import Ray, which reads its settings when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Sums of small models come back in the answer itself: a tenth of a short round.
    os.environ.setdefault("RAY_max_direct_call_object_size", str(_INLINE_BYTES))
    import ray

    return ray


def _quiet(show_output: bool) -> dict[str, Any]:
    """Return arguments of `ray.init` that keep stdout for results.

    Deaths of workers are dealt with and reported by `RayWorkers`; Ray would print them.
    """
    if not show_output:
        _imported()._private.worker.print_to_stdstream = lambda *_, **__: None
    return {"log_to_driver": show_output, "logging_level": "error", "configure_logging": False}


def _store_bytes() -> int | None:
    """Return the size of Ray's object store where a cgroup limits memory; else Ray chooses.

    Ray knows the limit of a container, but not of a cgroup below the root, such as a Slurm job's.
    """
    if environment.memory_limit_bytes() >= psutil.virtual_memory().total:
        return None
    least, most = _STORE_BYTES
    return max(least, min(int(_STORE_SHARE * environment.memory_available_bytes()), most))
