"""A Ray of the run's own on this machine: started, perhaps behind other work, and stopped.

Nothing here imports torch or the configuration: `fedsim.ahead` starts Ray before these are there.
"""

import atexit
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from fedsim import environment

__all__ = [
    "address_of",
    "behind",
    "imported",
    "is_abandoned",
    "is_own",
    "others",
    "quiet",
    "started",
]

_STORE_SHARE = 0.3  # of the memory that is free: Ray's own share
_INLINE_BYTES = 1 << 20  # of a result, in place of Ray's 100 KiB
_STORE_BYTES = 100 * 2**20, 10**10  # Ray refuses less; where more, it looks how large /dev/shm is
_NEEDLESS = "start_monitor", "start_api_server"  # methods of Ray's node
_PRELOAD = "RAY_preload_python_modules"
_SIMULATION = ("fedsim.engine.preload",)

_START = threading.Lock()  # one start at a time: who comes second finds Ray running
_OWN = threading.Event()  # there is a Ray that runs, or starts, `behind` something
_ABANDONED: list[threading.Thread] = []  # behind which a Ray starts that nobody wants any more
_GUESSED = threading.Event()  # its size is a guess, which nobody has checked yet


def address_of(asked: str | None) -> str:
    """Return where the cluster is that is to be joined; empty for a Ray of the run's own."""
    address = asked or ""
    if address in ("", "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    return "" if address == "local" else address


def is_own() -> bool:
    """Say whether Ray, if it runs, was started `behind` a run: it is as large as the run wants."""
    return _OWN.is_set()


def others() -> int:
    """Return how many Rays run on this machine that this process did not start."""
    names = (process.info for process in psutil.process_iter(["name", "ppid"]))
    return sum(each["name"] == "raylet" and each["ppid"] != os.getpid() for each in names)


def is_abandoned() -> bool:
    """Say whether a Ray still starts that nobody wants any more."""
    return any(thread.is_alive() for thread in _ABANDONED)


@contextmanager
def behind(workers: int, gpus: int | None, *, is_guess: bool = False) -> Iterator[None]:
    """Start Ray behind what this process does: it takes some seconds. In the end it is stopped.

    What goes wrong is not lost: `started` tries again, and raises. `is_guess`: who asks for another
    size later gets it; and where an error ends it all while Ray still starts, the error does not
    wait for that, only the end of the process does.
    """
    is_over, is_up = threading.Event(), threading.Event()

    def keep() -> None:
        # Ray says that it cannot take SIGTERM away from here; it is the run's anyway.
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
        with suppress(Exception), started(workers, gpus, preload=_SIMULATION):
            is_up.set()
            is_over.wait()  # Ray's processes die with the thread that started them

    _OWN.set()
    if is_guess:
        _GUESSED.set()
    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        is_over.set()
        if is_guess and not is_up.is_set():
            _ABANDONED.append(thread)
            atexit.register(thread.join)
        else:
            thread.join()
        raise
    else:
        is_over.set()
        thread.join()
    finally:
        _OWN.clear()
        _GUESSED.clear()


@contextmanager
def started(
    workers: int, gpus: int | None = 0, *, show_output: bool = False, preload: Sequence[str] = ()
) -> Iterator[None]:
    """Have Ray run on this machine, without telemetry or dashboard; whoever started it stops it.

    `gpus`: None has Ray look for them. `show_output`: print here what workers print. `preload`:
    modules that its workers import while they start, before they have anything to do.
    Ray's own processes listen on this machine's addresses, as Ray always does.
    """
    is_ours = _start(workers, gpus, show_output=show_output, preload=preload)
    try:
        yield
    finally:
        if is_ours:
            with _START:
                imported().shutdown()


def imported() -> Any:
    """Import Ray, which reads its settings when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Sums of small models come back in the answer itself: a tenth of a short round.
    os.environ.setdefault("RAY_max_direct_call_object_size", str(_INLINE_BYTES))
    import ray

    return ray


def quiet(show_output: bool) -> dict[str, Any]:
    """Return arguments of `ray.init` that keep stdout for results.

    Deaths of workers are dealt with and reported by `RayWorkers`; Ray would print them.
    """
    if not show_output:
        imported()._private.worker.print_to_stdstream = lambda *_, **__: None
    return {"log_to_driver": show_output, "logging_level": "error", "configure_logging": False}


def _start(workers: int, gpus: int | None, *, show_output: bool, preload: Sequence[str]) -> bool:
    """Start Ray; False if it ran already."""
    with _START:
        ray = imported()
        is_another = ray.is_initialized()
        if is_another and not _is_unfit(ray, workers, gpus):
            return False
        if is_another:
            ray.shutdown()
        needless = _NEEDLESS if show_output else (*_NEEDLESS, "start_log_monitor")
        with _without(ray._private.node.Node, needless), _preloading(preload):
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=gpus,
                object_store_memory=_store_bytes(),
                include_dashboard=False,
                **quiet(show_output),
            )
        return not is_another


def _is_unfit(ray: Any, workers: int, gpus: int | None) -> bool:
    """Say whether a Ray was started with a wrong guess of what is wanted: it must not be used."""
    if not _GUESSED.is_set():
        return False
    _GUESSED.clear()
    has = ray.cluster_resources()
    return bool(has.get("CPU", 0) < workers or has.get("GPU", 0) != (gpus or 0))


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


def _store_bytes() -> int | None:
    """Return the size of Ray's object store where a cgroup limits memory; else Ray chooses.

    Ray knows the limit of a container, but not of a cgroup below the root, such as a Slurm job's.
    """
    if environment.memory_limit_bytes() >= psutil.virtual_memory().total:
        return None
    least, most = _STORE_BYTES
    return max(least, min(int(_STORE_SHARE * environment.memory_available_bytes()), most))
