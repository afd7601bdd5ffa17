"""Ray itself: one of the run's own on this machine, or a cluster that runs there already.

Runs that join the same cluster share it by Ray's accounting: a worker starts where a core is free,
and waits where none is.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from fedsim import environment
from fedsim.config.schema import Engine
from fedsim.errors import SetupError

__all__ = ["Resources", "joined", "start_ray", "started_behind"]

_ANSWER_S = 5.0
_CLIENT = "ray://"
_STORE_SHARE = 0.3  # of the memory that is free: Ray's own share
_STORE_BYTES = 100 * 2**20, 10**10  # Ray refuses less; where more, it looks how large /dev/shm is
_START = threading.Lock()  # one start at a time: who comes second finds Ray running


@dataclass(frozen=True, slots=True)
class Resources:
    """What the workers of a run may share: cores and GPUs, of this machine or of a cluster."""

    cpus: int
    gpus: int


@contextmanager
def joined(engine: Engine, *, show_output: bool = False) -> Iterator[Resources]:
    """Be connected to the Ray cluster that a run is to join, if any; nothing is started.

    Yields what its workers may share: the cluster's, or this machine's. In the end the connection
    is closed, unless it was there before. Raises `SetupError` where no cluster answers.
    """
    address = _address(engine)
    is_ours = bool(address) and _join(address, show_output)
    try:
        yield _resources(engine)
    finally:
        if is_ours:
            _imported().shutdown()


@contextmanager
def started_behind(engine: Engine, resources: Resources) -> Iterator[None]:
    """Start a Ray of the run's own behind what this process does: it takes some seconds.

    Nothing is started where a run needs no Ray, or joins one. In the end Ray is stopped. What goes
    wrong here is not lost: `start_ray` tries again, and raises.
    """
    if engine.grid == "inprocess" or _address(engine) or _imported().is_initialized():
        yield
        return
    workers, is_over = engine.workers or resources.cpus, threading.Event()

    def keep() -> None:
        # Ray says that it cannot take SIGTERM away from here; it is the run's anyway.
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
        with suppress(Exception):
            if start_ray(workers, resources.gpus):
                is_over.wait()  # Ray's processes die with the thread that started them
                _imported().shutdown()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def start_ray(workers: int, gpus: int = 0, *, show_output: bool = False) -> bool:
    """Start Ray on this machine, without telemetry or dashboard; False if it ran already.

    `show_output`: print here what workers print.
    Ray's own processes listen on this machine's addresses, as Ray always does.
    """
    with _START:
        ray = _imported()
        if ray.is_initialized():
            return False
        ray.init(
            address="local",
            num_cpus=workers,
            num_gpus=gpus,
            object_store_memory=_store_bytes(),
            include_dashboard=False,
            **_quiet(show_output),
        )
        return True


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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"no Ray cluster to join at {address} ({reason}). Start one with `ray start --head`, "
            "correct engine.ray_address or RAY_ADDRESS, or set it to 'local' for a Ray of the "
            "run's own (RAY_ADDRESS=local to resume a run)"
        ) from error
    return True


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


def _resources(engine: Engine) -> Resources:
    gpus = 0 if engine.device == "cpu" else torch.cuda.device_count()
    ray = sys.modules.get("ray")  # who is connected has imported it, which takes most of a second
    if engine.grid == "inprocess" or ray is None or not ray.is_initialized():
        return Resources(environment.cpu_limit(), gpus)
    found = ray.cluster_resources()
    # The server's device decides: workers have GPUs where it has one.
    return Resources(int(found.get("CPU", 0)), int(found.get("GPU", 0)) if gpus else 0)


def _imported() -> Any:
    """Import Ray, which reads its settings when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
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
