"""Open the grid a configuration asks for, and close it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedsim.config.schema import Engine
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.grid import BlockGrid
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.ray import RayGrid, RayWorkers, WorkerSettings, start_ray
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


def worker_count(engine: Engine, cpus: int, clients: int) -> int:
    """Return how many workers a run gets: what was asked for, else one per core or GPU share."""
    if engine.grid == "inprocess":
        return 1
    if engine.workers is not None:
        return engine.workers
    gpus = _gpus(engine)
    return max(1, min(cpus, clients, gpus * _WORKERS_PER_GPU if gpus else cpus))


@contextmanager
def open_grid(
    engine: Engine,
    population: Population,
    *,
    cpus: int,
    code: tuple[str, ...] = (),
    runs: WorkerCode = OURS,
    show_output: bool = False,
) -> Iterator[OpenGrid]:
    """Open the grid that `engine` names; one torch thread per worker, so that bits do not vary.

    `code`: folders of the user's code; `runs`: what workers run; `show_output`: whether what they
    print is printed here.
    Raises `ConfigError` for a device this machine does not have.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        accepted = "'auto' or 'cpu': torch sees no CUDA device on this machine"
        raise ConfigError([Problem("engine.device", engine.device, accepted)])
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    workers = worker_count(engine, cpus, population.clients)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if engine.grid == "inprocess":
            handlers = runs.open(population.run_config)
            yield OpenGrid(InProcessGrid(handlers, population, size=engine.block_size), 1)
        else:
            settings = WorkerSettings(gpus=_gpu_share(engine, workers), code=code)
            with _ray(workers, _gpus(engine), show_output=show_output):
                pool = RayWorkers(runs, population, workers, settings=settings)
                try:
                    yield OpenGrid(RayGrid(pool, size=engine.block_size), workers)
                finally:
                    pool.close()
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ray(workers: int, gpus: int, *, show_output: bool) -> Iterator[None]:
    """Have Ray run on this machine; whoever started it stops it."""
    import ray

    is_ours = start_ray(workers, gpus, show_output=show_output)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _gpu_share(engine: Engine, workers: int) -> float:
    gpus = _gpus(engine)
    return engine.gpus_per_worker or (gpus / workers if gpus else 0.0)


def _gpus(engine: Engine) -> int:
    return 0 if engine.device == "cpu" else torch.cuda.device_count()
