"""`RayGrid`: clients run in Ray actors that live as long as the run.

The model goes into Ray's object store once per round and reaches every node once; work travels in
blocks; an actor keeps the imported app, the data and the model between blocks. Where a worker dies
its block runs again on another one; a client that kills its worker twice, or hangs where no signal
reaches it, is found by running its block client by client, and is lost for the round.
"""

import gc
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.app.metadata import Metadata

from fedsim.engine.blocks import Block, Population, WorkerCode, run_block, split
from fedsim.engine.grid import BlockGrid
from fedsim.environment import keep_freed_memory
from fedsim.errors import RunFailedError

__all__ = ["RayGrid", "RayWorkers", "WorkerSettings"]

_GRACE_S = 15.0  # beyond a block's own limit, before its worker is killed
_ATTEMPTS = 2  # a client that kills its worker this often is lost
_MOST_DEATHS = 20  # and one per worker, in one phase: then it is not the clients' fault
_QUEUE = 2  # blocks in flight per worker: one running, one waiting


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What one worker asks Ray for, and how it runs: in `folder`, if it exists on its node."""

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    code: tuple[str, ...] = ()
    folder: str = ""


@dataclass(slots=True)
class _Job:
    content: RecordDict
    block: Block
    attempts: int = 0


@dataclass(slots=True)
class _Worker:
    """An actor and what it has been given, oldest first: that one runs, the others wait."""

    actor: Any
    up: Any  # fulfilled when the actor has started; None once that was seen
    jobs: deque[tuple[Any, _Job]] = field(default_factory=deque)
    since: float = 0.0  # when the oldest job became the oldest


class RayGrid(BlockGrid):
    """A Flower `Grid` whose clients run in `workers`; one reply may stand for many clients."""

    def __init__(self, workers: "RayWorkers", *, size: int | None = None) -> None:
        """`size`: clients per block; unset: by the number of messages and of workers."""
        BlockGrid.__init__(self, workers.population, workers.run, size=size, workers=len(workers))
        self.incidents = workers.incidents


class RayWorkers:
    """A pool of Ray actors that run blocks of one app for one population."""

    def __init__(
        self,
        code: WorkerCode,
        population: Population,
        count: int,
        *,
        settings: WorkerSettings = WorkerSettings(),
    ) -> None:
        import ray

        if not isinstance(code.app, str):  # workers unpickle it once they can import its modules
            code = replace(code, app=ray.cloudpickle.dumps(code.app))
        self.population = population
        self._ray = ray
        remote = ray.remote(_Actor)
        options = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "max_restarts": 0}
        actor = remote.options(**options)
        self._make: Callable[[], Any] = lambda: actor.remote(code, population, settings)
        self._workers = [self._start() for _ in range(count)]
        self._queue: deque[_Job] = deque()
        #: What went wrong with workers, for the run's log.
        self.incidents: list[str] = []
        self._deaths = 0
        self._sent: tuple[RecordDict, Any] | None = None

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._workers)

    def pids(self) -> list[int]:
        """Return the process ids of the workers; waits until they are up."""
        calls = [worker.actor.pid.remote() for worker in self._workers]
        return [int(pid) for pid in self._ray.get(calls)]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers = []

    def run(
        self, jobs: Sequence[tuple[RecordDict, Block]], deadline: float | None
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Run blocks; yields results as they come. Past `deadline` the rest is abandoned."""
        self._deaths = 0
        self._queue = deque(_Job(content, block) for content, block in jobs)
        try:
            while self._feed():
                if deadline is not None and time() > deadline:
                    return
                yield from self._collect()
        finally:
            self._abandon()

    def _start(self) -> _Worker:
        actor = self._make()
        return _Worker(actor, actor.pid.remote())

    def _restart(self, worker: _Worker) -> None:
        worker.jobs.clear()
        worker.actor = self._make()
        worker.up = worker.actor.pid.remote()

    def _feed(self) -> bool:
        """Give waiting jobs to workers with room, emptiest first; say if there is one to wait for.

        Only to workers that are up: another may wait as long as other runs have the cluster.
        """
        for depth in range(_QUEUE):
            for worker in self._workers:
                if self._queue and worker.up is None and len(worker.jobs) == depth:
                    job = self._queue.popleft()
                    if not worker.jobs:
                        worker.since = time()
                    # In a list: Ray passes the reference on and the worker fetches it once.
                    call = worker.actor.run.remote([self._reference(job.content)], job.block)
                    worker.jobs.append((call, job))
        return bool(self._queue) or any(worker.jobs for worker in self._workers)

    def _reference(self, content: RecordDict) -> Any:
        """Put a content into the object store once for all blocks in a row that answer it."""
        if self._sent is None or self._sent[0] is not content:
            self._sent = content, self._ray.put(content)
        return self._sent[1]

    def _collect(self) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Wait for the next result, start, death or time-out, and deal with it."""
        starting = {worker.up: worker for worker in self._workers if worker.up is not None}
        oldest = {worker.jobs[0][0]: worker for worker in self._workers if worker.jobs}
        # Starts first: where results never run out, they would not be seen after them.
        ready, _ = self._ray.wait([*starting, *oldest], num_returns=1, timeout=1.0)
        for call in ready:
            if call in starting:
                self._see_start(starting[call])
            else:
                yield from self._finish(oldest[call])
        for worker in oldest.values():
            if worker.jobs and time() > worker.since + _limit(worker.jobs[0][1].block):
                self._ray.kill(worker.actor)
                yield from self._replace(worker, "client hung beyond its time limit; worker killed")

    def _see_start(self, worker: _Worker) -> None:
        """Let a worker that has started have jobs; one that could not is started again."""
        exceptions = self._ray.exceptions
        try:
            self._ray.get(worker.up)
        except (exceptions.RayActorError, exceptions.OutOfMemoryError) as error:
            self._restart(worker)
            self._count_death(f"worker died while it started: {_last_line(error)}")
        else:
            worker.up = None

    def _finish(
        self, worker: _Worker
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Hand on the result of a worker's oldest job, or deal with the worker's death."""
        try:
            replies, states, incident = self._ray.get(worker.jobs[0][0])
        except self._ray.exceptions.OutOfMemoryError as error:
            worker.jobs[0][1].attempts = _ATTEMPTS - 1  # the same again would die again
            reason = f"worker killed for memory, its block halved: {_first_line(error)}"
            yield from self._replace(worker, reason)
        except self._ray.exceptions.RayActorError as error:
            yield from self._replace(worker, f"worker died: {_first_line(error)}")
        else:
            _, job = worker.jobs.popleft()
            worker.since = time()
            if incident:
                self.incidents.append(incident)
            yield replies, states, len(job.block)

    def _replace(
        self, worker: _Worker, reason: str
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Start a new actor in place of a dead one and put its jobs back, the running one split."""
        jobs = [job for _, job in worker.jobs]
        self._restart(worker)
        running, waiting = jobs[0], jobs[1:]
        nodes = list(running.block.nodes)
        self._count_death(f"{reason} (running nodes {nodes}; {len(waiting)} block(s) waiting)")
        for job in reversed(waiting):
            self._queue.appendleft(job)
        running.attempts += 1
        if running.attempts < _ATTEMPTS:
            self._queue.appendleft(running)
        elif len(running.block) > 1:
            # Half of it may fit where the whole did not; in the end this finds the one client.
            for half in reversed(split(running.block, -(-len(running.block) // 2))):
                self._queue.appendleft(_Job(running.content, half, attempts=_ATTEMPTS - 1))
        else:
            yield [_lost(running.block, reason)], {}, 1

    def _count_death(self, reason: str) -> None:
        self.incidents.append(reason)
        self._deaths += 1
        if self._deaths > _MOST_DEATHS + len(self._workers):
            raise RunFailedError(f"workers keep dying in one phase of a round; last: {reason}")

    def _abandon(self) -> None:
        """Forget what is in flight; workers that still run something are replaced."""
        self._queue.clear()
        self._sent = None
        for worker in self._workers:
            if worker.jobs:
                self._ray.kill(worker.actor)
                self._restart(worker)


class _Actor:
    """A worker process: imports the app once, keeps the current content, runs blocks."""

    def __init__(
        self,
        code: WorkerCode,
        population: Population,
        settings: WorkerSettings,
    ) -> None:
        import signal
        import sys

        import torch

        # Ctrl-C is for the driver: it lets the round finish.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(settings.threads)
        sys.path[:0] = [folder for folder in settings.code if folder not in sys.path]
        if settings.folder and Path(settings.folder).is_dir():  # Ray was started anywhere
            os.chdir(settings.folder)
        keep_freed_memory()
        self._handlers = code.open(population.run_config)
        gc.collect()
        gc.freeze()  # see `fedsim.environment.settled`; this process ends with the run
        self._population = population
        self._content: tuple[Any, RecordDict] | None = None

    def pid(self) -> int:
        return os.getpid()

    def run(
        self, reference: list[Any], block: Block
    ) -> tuple[list[Message], dict[int, RecordDict], str]:
        import ray

        if self._content is None or self._content[0] != reference[0]:
            self._content = (reference[0], ray.get(reference[0]))
        return run_block(self._handlers, self._population, self._content[1], block)


def _limit(block: Block) -> float:
    ttl = block.ttl
    return float("inf") if ttl >= DEFAULT_TTL else ttl * len(block) + _GRACE_S


def _lost(block: Block, reason: str) -> Message:
    instruction = Message(content=RecordDict(), metadata=Metadata(**block.metadata(0)))
    return Message(error=Error(0, reason), reply_to=instruction)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    """Return where Ray's text about an actor that could not start has the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
