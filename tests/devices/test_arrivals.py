"""The queue of asynchronous runs, against a simulation that looks at every moment by itself."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.arrivals import Queue, Task, fill, from_tensor, to_tensor

CLIENTS = 7


def lengths(seed):
    """How long each task of a client takes, in halves: ties are frequent, and exact."""
    return np.random.default_rng(seed).integers(1, 9, size=(CLIENTS, 50)) / 2


def drawn(idle, free, draw):
    """Who begins: by a rule that both simulations follow."""
    order = np.random.default_rng(draw).permutation(len(idle))[:free]
    return sorted(idle[i] for i in order)


def by_queue(durations, buffer, concurrency, steps, *, is_stored=False):
    """Versions and clients of each step, by the code that runs use."""
    queue, counts, found = Queue(), [0] * CLIENTS, []
    for version in range(steps):

        def begin(now, busy, free, draw, version=version):
            idle = [client for client in range(CLIENTS) if client not in busy]
            new = []
            for client in drawn(idle, free, draw):
                ends = now + durations[client, counts[client]]
                counts[client] += 1
                new.append(Task(client, version, now, ends, 1.0))
            return now, new

        if is_stored:
            queue = from_tensor(to_tensor(queue))
        queue, taken, lost = fill(queue, buffer, concurrency, begin)
        assert not lost
        found.append((queue.now_s, [(task.client, task.version) for task in taken]))
    return found


def by_events(durations, buffer, concurrency, steps):
    """The same with a heap of events: begin, arrive in order, step, begin again."""
    now, version, draw, counts = 0.0, 0, 0, [0] * CLIENTS
    heap, full, found = [], [], []
    while len(found) < steps:
        while len(full) >= buffer and len(found) < steps:
            found.append((now, full[:buffer]))
            full, version = full[buffer:], version + 1
        if len(found) == steps:
            break
        if len(heap) < concurrency:
            draw += 1
            busy = {client for _, client, _ in heap} | {client for client, _ in full}
            idle = [client for client in range(CLIENTS) if client not in busy]
            for client in drawn(idle, concurrency - len(heap), draw):
                ends = now + durations[client, counts[client]]
                heapq.heappush(heap, (ends, client, version))
                counts[client] += 1
        now = heap[0][0]
        while heap and heap[0][0] == now:
            _, client, began = heapq.heappop(heap)
            full.append((client, began))
    return found


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, CLIENTS), st.integers(1, CLIENTS))
def test_the_queue_is_a_simulation_event_by_event(seed, buffer, concurrency):
    durations = lengths(seed)
    expected = by_events(durations, buffer, concurrency, 8)
    assert by_queue(durations, buffer, concurrency, 8) == expected
    assert by_queue(durations, buffer, concurrency, 8, is_stored=True) == expected


def test_by_hand_two_at_work_and_a_buffer_of_two():
    # Client 0 takes 1 s, client 1 takes 3 s, and there is nobody else to draw but 2, who takes 5.
    spent = {0: 1.0, 1: 3.0, 2: 5.0}

    def begin(now, busy, free, draw):
        idle = [client for client in range(3) if client not in busy][:free]
        return now, [Task(c, version, now, now + spent[c], 1.0) for c in idle]

    queue, found = Queue(), []
    for version in range(4):  # noqa: B007 - `begin` looks at it
        queue, taken, _ = fill(queue, 2, 2, begin)
        found.append((queue.now_s, [(task.client, task.version) for task in taken]))
    # 0 arrives at 1 and may not begin again before the step, so 2 begins. 1 arrives at 3: step 1.
    # 0 begins at 3, arrives at 4; 1 begins at 4. 2 arrives at 6 from version 0: step 2. 0 begins.
    # 0 and 1 arrive at 7: step 3, in order of clients. Both begin; 0 arrives at 8, then 2 begins;
    # 1 arrives at 10: step 4.
    assert found == [
        (3.0, [(0, 0), (1, 0)]),
        (6.0, [(0, 1), (2, 0)]),
        (7.0, [(0, 2), (1, 1)]),
        (10.0, [(0, 3), (1, 3)]),
    ]


def test_equal_speeds_and_a_buffer_of_all_at_work_are_rounds():
    durations = np.full((CLIENTS, 50), 2.5)
    for number, (now, members) in enumerate(by_queue(durations, 4, 4, 5)):
        assert now == 2.5 * (number + 1)
        assert {version for _, version in members} == {number}


def test_who_is_lost_makes_room_and_is_told():
    def begin(now, busy, free, draw):
        client = draw % CLIENTS
        return now, [Task(client, 0, now, now + 1.0, 0.5, is_lost=draw < 4)]

    _, taken, lost = fill(Queue(), 2, 1, begin)
    assert [task.client for task in lost] == [1, 2, 3]
    assert [(task.client, task.ends_s) for task in taken] == [(4, 4.0), (5, 5.0)]


def test_a_stored_queue_is_the_same_bit_by_bit():
    task = Task(3, 17, 0.1 + 0.2, 1e9 / 3, 2.0 / 3, is_lost=True)
    queue = Queue(1 / 3, 12, (task,), (Task(4, 16, 0.7, 0.9, 1e-300),))
    assert from_tensor(to_tensor(queue)) == queue
    assert from_tensor(to_tensor(queue)).versions() == {16, 17}


@pytest.mark.parametrize("buffer", [1, 3])
def test_a_buffer_has_as_many_different_clients(buffer):
    for _, members in by_queue(lengths(3), buffer, 5, 20):
        assert len({client for client, _ in members}) == buffer
