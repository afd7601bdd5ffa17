"""Who begins and who arrives when nobody is waited for: a queue of tasks by simulated time.

Pure and deterministic: it depends on devices, on the seed, and on nothing that is learned, so the
order of a run is the same on every machine. At each moment arrivals come first, in order of
clients, then the server's steps, then new clients begin, from the newest model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Begin", "Queue", "Task", "fill", "from_tensor", "to_tensor"]


@dataclass(frozen=True, slots=True)
class Task:
    """A client at work from `begins_s` on the model after `version` steps of the server.

    `is_lost`: at `ends_s` it is gone for good, in place of arriving.
    """

    client: int
    version: int
    begins_s: float
    ends_s: float
    joules: float
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """Where an asynchronous run stands: who is at work, and who has arrived and is not counted yet.

    `draws` counts how often clients were drawn, so that each draw has a stream of its own.
    """

    now_s: float = 0.0
    draws: int = 0
    working: tuple[Task, ...] = ()
    arrived: tuple[Task, ...] = ()

    def versions(self) -> set[int]:
        """Return which models are in use."""
        return {task.version for task in (*self.working, *self.arrived)}


#: (now, clients that cannot begin, how many may, number of the draw) -> (now, those that begin):
#: later, where nobody is there and nobody is at work.
Begin = Callable[[float, frozenset[int], int, int], tuple[float, Sequence[Task]]]


def fill(
    queue: Queue, buffer: int, concurrency: int, begin: Begin
) -> tuple[Queue, list[Task], list[Task]]:
    """Go on until `buffer` tasks have arrived; return the queue after it, those, and who was lost.

    Whoever has arrived and is not counted yet does not begin anew: it would get the same model. So
    a buffer takes as many different clients.
    """
    lost: list[Task] = []
    while len(queue.arrived) < buffer:
        queue = _begun(queue, concurrency, begin)
        queue, gone = _next(queue)
        lost += gone
    taken = list(queue.arrived[:buffer])
    return replace(queue, arrived=queue.arrived[buffer:]), taken, lost


def _begun(queue: Queue, concurrency: int, begin: Begin) -> Queue:
    free = concurrency - len(queue.working)
    if free <= 0:
        return queue
    busy = frozenset(task.client for task in (*queue.working, *queue.arrived))
    now_s, new = begin(queue.now_s, busy, free, queue.draws + 1)
    return replace(queue, now_s=now_s, draws=queue.draws + 1, working=(*queue.working, *new))


def _next(queue: Queue) -> tuple[Queue, list[Task]]:
    """Go to the next moment at which somebody arrives or is gone."""
    now_s = min(task.ends_s for task in queue.working)
    here = sorted((t for t in queue.working if t.ends_s == now_s), key=lambda task: task.client)
    working = tuple(task for task in queue.working if task.ends_s > now_s)
    arrived = (*queue.arrived, *(task for task in here if not task.is_lost))
    after = replace(queue, now_s=now_s, working=working, arrived=arrived)
    return after, [task for task in here if task.is_lost]


def to_tensor(queue: Queue) -> Tensor:
    """Return a queue as a float64 tensor, bit for bit: [1 + tasks, 7]."""
    rows = [[queue.now_s, float(queue.draws), 0.0, 0.0, 0.0, 0.0, 0.0]]
    for is_here, tasks in ((0.0, queue.working), (1.0, queue.arrived)):
        rows += [
            [t.client, t.version, t.begins_s, t.ends_s, t.joules, float(t.is_lost), is_here]
            for t in tasks
        ]
    return torch.tensor(rows, dtype=torch.float64)


def from_tensor(rows: Tensor) -> Queue:
    """Undo `to_tensor`."""
    (first, *rest) = rows.tolist()
    tasks = [(Task(int(r[0]), int(r[1]), r[2], r[3], r[4], bool(r[5])), bool(r[6])) for r in rest]
    working = tuple(task for task, is_here in tasks if not is_here)
    arrived = tuple(task for task, is_here in tasks if is_here)
    return Queue(first[0], int(first[1]), working, arrived)
