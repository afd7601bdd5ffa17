"""Open the grid a configuration asks for, and close it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedsim.config.schema import Engine
from fedsim.engine import placement
from fedsim.engine.actor import WorkerSettings, public_versions
from fedsim.engine.arrays import keep_numbers
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.cluster import Resources, is_joined, joined, resources
from fedsim.engine.grid import BlockGrid
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.own_ray import started
from fedsim.engine.ray import RayGrid, RayWorkers
from fedsim.engine.shipping import pack
from fedsim.environment import one_thread
from fedsim.errors import ConfigError, Problem

__all__ = ["OURS", "OpenGrid", "open_grid", "worker_count"]

#: Our own clients.
OURS = WorkerCode(
    "fedsim.clients.app:app",
    fold="fedsim.messages:fold",
    block="fedsim.clients._block:answer",
    warm="fedsim.clients.app:warm",
)


@dataclass(frozen=True, slots=True)
class OpenGrid:
    """A grid in use, and how many workers it has."""

    grid: BlockGrid
    workers: int


def worker_count(engine: Engine, resources: Resources, clients: int) -> int:
    """Return how many workers a run gets: what was asked for, else one per core or GPU share."""
    return placement.worker_count(engine, resources.nodes, clients)


@contextmanager
def open_grid(
    engine: Engine,
    population: Population,
    *,
    code: tuple[str, ...] = (),
    runs: WorkerCode = OURS,
    run: str = "",
    show_output: bool = False,
) -> Iterator[OpenGrid]:
    """Open the grid that `engine` names; one torch thread per worker, so that bits do not vary.

    `code`: folders of the user's code; `runs`: what workers run; `run`: the run's id, by which
    those who look at the cluster know it; `show_output`: print here what workers print.
    Raises `ConfigError` for a device this machine does not have or a share of more GPUs than there
    are, `SetupError` where the Ray cluster to join does not answer.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        accepted = "'auto' or 'cpu': torch sees no CUDA device on this machine"
        if is_joined(engine):
            accepted += ", where the server runs. Start the run on a node of the cluster with a GPU"
        raise ConfigError([Problem("engine.device", engine.device, accepted)])
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    keep_numbers()
    with one_thread():
        if engine.grid == "inprocess":
            handlers = runs.open(population.run_config)
            yield OpenGrid(InProcessGrid(handlers, population, size=engine.block_size), 1)
        else:
            asked = _Asked(engine, population, code, runs, run)
            with _pool(asked, show_output=show_output) as pool:
                yield OpenGrid(RayGrid(pool, size=engine.block_size), len(pool))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a pool of workers is asked for with."""

    engine: Engine
    population: Population
    code: tuple[str, ...]
    runs: WorkerCode
    run: str

    def room(self) -> int:
        """Return how many workers there should be now."""
        return worker_count(self.engine, resources(self.engine), self.population.clients)

    def settings(self, found: Resources, workers: int) -> WorkerSettings:
        """Return what workers ask Ray for, and what they find on nodes of a cluster."""
        share, folder = placement.gpu_share(self.engine, workers, found.nodes), str(Path.cwd())
        own = WorkerSettings(
            gpus=share,
            code=self.code,
            folder=folder,
            accelerator=found.accelerator if share else "",
        )
        if not is_joined(self.engine):
            return own
        folders = tuple(dict.fromkeys((*self.code, folder)))
        return replace(own, shipped=pack(folders), versions=public_versions())


@contextmanager
def _pool(asked: _Asked, *, show_output: bool) -> Iterator[RayWorkers]:
    """Have workers, on the Ray that runs already or on one that is stopped in the end."""
    engine = asked.engine
    with joined(engine, show_output=show_output) as found:
        workers = worker_count(engine, found, asked.population.clients)
        settings = asked.settings(found, workers)
        room = asked.room if is_joined(engine) and engine.workers is None else None
        with started(workers, found.gpus, show_output=show_output):
            pool = RayWorkers(
                asked.runs, asked.population, workers, settings=settings, room=room, run=asked.run
            )
            try:
                yield pool
            finally:
                pool.close()
