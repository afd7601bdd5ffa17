"""`RayGrid`: clients run in Ray actors that live as long as the run.

The model goes into Ray's object store once per round and reaches every node once; work travels in
blocks; an actor keeps the imported app, the data and the model between blocks. Where a worker dies
its block runs again on another one; a client that kills its worker twice, or hangs where no signal
reaches it, is found by running its block client by client, and is lost for the round. Where a whole
node dies no client is blamed; nodes that join a cluster get workers while a round runs; a node that
cannot run clients is told by its name, and left alone.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import time
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.app.metadata import Metadata

from fedsim.engine.actor import Actor, Started, WorkerSettings
from fedsim.engine.blocks import Block, Population, WorkerCode, split
from fedsim.engine.grid import BlockGrid
from fedsim.engine.nodes import Nodes
from fedsim.engine.status import Bulletin, tally
from fedsim.errors import RunFailedError

__all__ = ["RayGrid", "RayWorkers", "WorkerSettings"]

_GRACE_S = 15.0  # beyond a block's own limit, before its worker is killed
_ATTEMPTS = 2  # a client that kills its worker this often is lost
_MOST_DEATHS = 20  # and one per worker, in one phase: then it is not the clients' fault
_MOST_MOVES = 3  # of a block whose node died, or may have; beyond, its clients are looked at
_QUEUE = 2  # blocks in flight per worker: one running, one waiting
_REST = 4  # blocks per worker: of the last ones none waits for a worker while another has nothing
_PLAIN = WorkerSettings()
_LOOK_S = 3.0  # between looks at whether a cluster has grown


@dataclass(slots=True)
class _Job:
    content: RecordDict
    block: Block
    attempts: int = 0
    moves: int = 0


@dataclass(slots=True)
class _Worker:
    """An actor and what it has been given, oldest first: that one runs, the others wait."""

    actor: Any
    up: Any  # fulfilled when the actor has started; None once that was seen
    node: str = ""  # the id of its node, once it is up
    jobs: deque[tuple[Any, _Job]] = field(default_factory=deque)
    since: float = 0.0  # when the oldest job became the oldest


class RayGrid(BlockGrid):
    """A Flower `Grid` whose clients run in `workers`; one reply may stand for many clients."""

    def __init__(self, workers: "RayWorkers", *, size: int | None = None) -> None:
        """`size`: clients per block; unset: by the number of messages and of workers."""
        BlockGrid.__init__(
            self, workers.population, workers.run, size=size, workers=lambda: len(workers)
        )
        self.incidents = workers.incidents


class RayWorkers:
    """A pool of Ray actors that run blocks of one app for one population.

    `room`: says how many workers there should be now; the pool grows to that, and never shrinks.
    `run`: what others who look at the cluster see the run as; empty shows them nothing.
    """

    def __init__(
        self,
        code: WorkerCode,
        population: Population,
        count: int,
        *,
        settings: WorkerSettings = _PLAIN,
        room: Callable[[], int] | None = None,
        run: str = "",
    ) -> None:
        import ray

        if not isinstance(code.app, str):  # workers unpickle it once they can import its modules
            code = replace(code, app=ray.cloudpickle.dumps(code.app))
        self.population = population
        self._ray = ray
        self._nodes = Nodes(ray, settings)
        self._bulletin = Bulletin(ray, run)
        self._room, self._looked = room, time()
        options: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
        options["max_restarts"] = 0
        if settings.accelerator:
            options["accelerator_type"] = settings.accelerator
        remote = ray.remote(Actor)
        # What all workers are told crosses to each node once.
        told = ray.put((code, population, settings))
        self._make: Callable[[], Any] = lambda: remote.options(
            **options, **self._nodes.options()
        ).remote(told)
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
        calls = [worker.actor.up.remote() for worker in self._workers]
        return [int(started.pid) for started in self._ray.get(calls)]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers = []
        self._bulletin.end()

    def run(
        self, jobs: Sequence[tuple[RecordDict, Block]], deadline: float | None
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Run blocks; yields results as they come. Past `deadline` the rest is abandoned.

        First, once workers have something to do, comes a result of nobody: the caller has time.
        """
        self._deaths = 0
        self._queue = deque(_Job(content, block) for content, block in jobs)
        try:
            self._feed()
            yield [], {}, 0
            while self._feed():
                if deadline is not None and time() > deadline:
                    return
                yield from self._collect()
        finally:
            self._abandon()

    def _start(self) -> _Worker:
        actor = self._make()
        return _Worker(actor, actor.up.remote())

    def _restart(self, worker: _Worker) -> None:
        """Start an actor in the place of one that is of no use, wherever Ray has room for it."""
        self._ray.kill(worker.actor)  # it may only seem dead
        if not any(other.up is None for other in self._workers if other is not worker):
            self._nodes.require()
        worker.jobs.clear()
        worker.actor, worker.node = self._make(), ""
        worker.up = worker.actor.up.remote()

    def _grow(self) -> None:
        """Have workers where a cluster has got room since."""
        if self._room is None or time() < self._looked + _LOOK_S:
            return
        self._looked = time()
        self._workers += [self._start() for _ in range(len(self._workers), self._room())]

    def _say(self) -> None:
        """Let those who look at the cluster know what the workers do."""
        states = [
            (worker.node, "starting" if worker.up else "busy" if worker.jobs else "idle")
            for worker in self._workers
        ]
        self._bulletin.say(tally(states), sum(len(job.block) for job in self._queue))

    def _feed(self, ended: Sequence[_Worker] = ()) -> bool:
        """Give waiting jobs to workers with room, emptiest first; say if there is one to wait for.

        Only to workers that are up: another may wait as long as other runs have the cluster.
        `ended`: whose oldest job has ended, with a result that is not fetched yet.
        """
        for depth in range(_QUEUE):
            for worker in self._workers:
                if depth and len(self._queue) <= _REST * len(self._workers):
                    break
                left = len(worker.jobs) - (worker in ended)
                if self._queue and worker.up is None and left == depth:
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
        self._grow()
        self._say()
        starting = {worker.up: worker for worker in self._workers if worker.up is not None}
        oldest = {worker.jobs[0][0]: worker for worker in self._workers if worker.jobs}
        # Starts first: where results never run out, they would not be seen after them.
        ready, _ = self._ray.wait([*starting, *oldest], num_returns=1, timeout=1.0)
        for call in ready:
            if call in starting:
                self._see_start(starting[call])
            else:
                self._feed([oldest[call]])  # it need not wait until its result is here
                yield from self._finish(oldest[call])
        for worker in oldest.values():
            if worker.jobs and time() > worker.since + _limit(worker.jobs[0][1].block):
                yield from self._replace(worker, "client hung beyond its time limit; worker killed")

    def _see_start(self, worker: _Worker) -> None:
        """Let a worker that has started have jobs; one that could not is started again."""
        exceptions = self._ray.exceptions
        try:
            started: Started = self._ray.get(worker.up)
        except (exceptions.RayActorError, exceptions.OutOfMemoryError) as error:
            self._restart(worker)
            self._count_death(f"worker died while it started: {_last_line(error)}")
            return
        if started.problem:
            if text := self._nodes.report(started.node, started.problem):
                self.incidents.append(text)
            self._restart(worker)
        else:
            worker.up, worker.node = None, started.node

    def _finish(
        self, worker: _Worker
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Hand on the result of a worker's oldest job, or deal with the worker's death."""
        exceptions = self._ray.exceptions
        try:
            replies, states, incident = self._ray.get(worker.jobs[0][0])
        except exceptions.OutOfMemoryError as error:
            worker.jobs[0][1].attempts = _ATTEMPTS - 1  # the same again would die again
            why = _first_line(error).partition(";")[0]  # then Ray lists all that used memory
            reason = f"worker killed for memory, its block halved: {why}"
            yield from self._replace(worker, reason)
        except (exceptions.ActorUnavailableError, exceptions.ObjectLostError) as error:
            # It cannot be reached, or its node died with a result that nobody had fetched yet.
            reason = f"worker cannot be reached: {_first_line(error)}"
            yield from self._replace(worker, reason, is_elsewhere=True)
        except exceptions.RayActorError as error:
            is_alone = self._nodes.is_alive(worker.node)
            kind = "worker died" if is_alone else "worker died with its node"
            reason = f"{kind}: {_first_line(error)}"
            yield from self._replace(worker, reason, is_elsewhere=not is_alone)
        else:
            _, job = worker.jobs.popleft()
            worker.since = time()
            if incident:
                self.incidents.append(incident)
            self._bulletin.done += len(job.block)
            yield replies, states, len(job.block)

    def _replace(
        self, worker: _Worker, reason: str, *, is_elsewhere: bool = False
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        """Start a new actor in place of a dead one and put its jobs back, the running one split.

        `is_elsewhere`: no client can have done it, so that the running job goes on as it is.
        """
        jobs = [job for _, job in worker.jobs]
        place = self._nodes.name(worker.node)
        self._restart(worker)
        running, waiting = jobs[0], jobs[1:]
        clients = list(running.block.nodes)
        self._count_death(
            f"{reason} (on {place}; running nodes {clients}; {len(waiting)} block(s) waiting)"
        )
        for job in reversed(waiting):
            self._queue.appendleft(job)
        if is_elsewhere and running.moves < _MOST_MOVES:
            running.moves += 1
        else:
            running.attempts += 1
        if running.attempts < _ATTEMPTS:
            self._queue.appendleft(running)
        elif len(running.block) > 1:
            # Half of it may fit where the whole did not; in the end this finds the one client.
            for half in reversed(split(running.block, -(-len(running.block) // 2))):
                self._queue.appendleft(_Job(running.content, half, attempts=_ATTEMPTS - 1))
        else:
            yield [_lost(running.block, f"{reason} (on {place})")], {}, 1

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
                self._restart(worker)


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
