"""Open the grid a configuration asks for, and close it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedsim.config.schema import Engine
from fedsim.engine.blocks import Population
from fedsim.engine.grid import BlockGrid
from fedsim.engine.inprocess import InProcessGrid
from fedsim.errors import ConfigError, Problem

__all__ = ["OpenGrid", "open_grid", "worker_count"]

_APP = "fedsim.clients.app:app"
_FOLD = "fedsim.messages:fold"
_BLOCK = "fedsim.clients._block:answer"
_WARM = "fedsim.clients.app:warm"
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
    engine: Engine, population: Population, *, cpus: int, code: tuple[str, ...] = ()
) -> Iterator[OpenGrid]:
    """Open the grid that `engine` names; one torch thread per worker, so that bits do not vary.

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
            from fedsim.clients._block import answer
            from fedsim.clients.app import app, warm
            from fedsim.messages import fold

            warm(population.run_config)
            size = engine.block_size
            grid = InProcessGrid(app, population, fold=fold, block=answer, size=size)
            yield OpenGrid(grid, 1)
        else:
            yield from _open_ray(engine, population, workers, code)
    finally:
        torch.set_num_threads(threads)


def _open_ray(
    engine: Engine, population: Population, workers: int, code: tuple[str, ...]
) -> Iterator[OpenGrid]:
    import ray

    from fedsim.engine.ray import RayGrid, RayWorkers, WorkerSettings, start_ray

    gpus = _gpus(engine)
    share = engine.gpus_per_worker or (gpus / workers if gpus else 0.0)
    is_ours = start_ray(workers, gpus)
    pool = None
    try:
        settings = WorkerSettings(gpus=share, code=code)
        pool = RayWorkers(
            _APP, population, workers, fold=_FOLD, block=_BLOCK, warm=_WARM, settings=settings
        )
        yield OpenGrid(RayGrid(pool, size=engine.block_size), workers)
    finally:
        if is_ours:
            ray.shutdown()
        elif pool is not None:
            pool.close()


def _gpus(engine: Engine) -> int:
    return 0 if engine.device == "cpu" else torch.cuda.device_count()
