"""Open the grid a configuration asks for, and close it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fedsim.config.schema import Engine
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.cluster import Resources, joined, start_ray
from fedsim.engine.grid import BlockGrid
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.ray import RayGrid, RayWorkers, WorkerSettings
from fedsim.errors import ConfigError, Problem

__all__ = ["OURS", "OpenGrid", "open_grid", "worker_count"]

#: Our own clients.
OURS = WorkerCode(
    "fedsim.clients.app:app",
    fold="fedsim.messages:fold",
    block="fedsim.clients._block:answer",
    warm="fedsim.clients.app:warm",
)
_WORKERS_PER_GPU = 4


@dataclass(frozen=True, slots=True)
class OpenGrid:
    """A grid in use, and how many workers it has."""

    grid: BlockGrid
    workers: int


def worker_count(engine: Engine, resources: Resources, clients: int) -> int:
    """Return how many workers a run gets: what was asked for, else one per core or GPU share."""
    if engine.grid == "inprocess":
        return 1
    if engine.workers is not None:
        return engine.workers
    gpu_shares = resources.gpus * _WORKERS_PER_GPU or resources.cpus
    return max(1, min(resources.cpus, clients, gpu_shares))


@contextmanager
def open_grid(
    engine: Engine,
    population: Population,
    *,
    code: tuple[str, ...] = (),
    runs: WorkerCode = OURS,
    show_output: bool = False,
) -> Iterator[OpenGrid]:
    """Open the grid that `engine` names; one torch thread per worker, so that bits do not vary.

    `code`: folders of the user's code; `runs`: what workers run; `show_output`: whether what they
    print is printed here.
    Raises `ConfigError` for a device this machine does not have or a share of more GPUs than there
    are, `SetupError` where the Ray cluster to join does not answer.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        accepted = "'auto' or 'cpu': torch sees no CUDA device on this machine"
        raise ConfigError([Problem("engine.device", engine.device, accepted)])
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if engine.grid == "inprocess":
            handlers = runs.open(population.run_config)
            yield OpenGrid(InProcessGrid(handlers, population, size=engine.block_size), 1)
        else:
            with _pool(engine, population, code, runs, show_output=show_output) as (pool, workers):
                yield OpenGrid(RayGrid(pool, size=engine.block_size), workers)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _pool(
    engine: Engine,
    population: Population,
    code: tuple[str, ...],
    runs: WorkerCode,
    *,
    show_output: bool,
) -> Iterator[tuple[RayWorkers, int]]:
    """Have workers, on the Ray that runs already or on one that is stopped in the end."""
    with joined(engine, show_output=show_output) as resources:
        workers = worker_count(engine, resources, population.clients)
        share = _gpu_share(engine, workers, resources.gpus)
        settings = WorkerSettings(gpus=share, code=code, folder=str(Path.cwd()))
        with _ray(workers, resources.gpus, show_output=show_output):
            pool = RayWorkers(runs, population, workers, settings=settings)
            try:
                yield pool, workers
            finally:
                pool.close()


@contextmanager
def _ray(workers: int, gpus: int, *, show_output: bool) -> Iterator[None]:
    """Have Ray run; whoever started it stops it."""
    import ray

    is_ours = start_ray(workers, gpus, show_output=show_output)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _gpu_share(engine: Engine, workers: int, gpus: int) -> float:
    """Return what part of a GPU each worker asks for, unless told: the most with which all fit.

    Above one Ray gives whole GPUs only; below one it never joins parts of two.
    """
    asked = engine.gpus_per_worker or 0.0
    if asked > gpus:
        accepted = f"at most {gpus}, the GPUs there are"
        raise ConfigError([Problem("engine.gpus_per_worker", asked, accepted)])
    if asked or workers <= gpus or not gpus:
        return asked or float(gpus // workers)
    return 1 / -(-workers // gpus)
