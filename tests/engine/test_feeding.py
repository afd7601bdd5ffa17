"""Which worker gets which block, and when; with actors that only note what they are given."""

from collections import deque
from types import SimpleNamespace

import pytest

from fedsim.engine import ray as engine


@pytest.fixture
def pool(monkeypatch):
    """Two workers that are up; `given[i]`: the blocks of worker i, in order."""

    def made(blocks):
        workers = engine.RayWorkers.__new__(engine.RayWorkers)
        given = [[], []]
        actors = [
            SimpleNamespace(run=SimpleNamespace(remote=lambda _, block, own=own: own.append(block)))
            for own in given
        ]
        workers._workers = [engine._Worker(actor, None) for actor in actors]
        workers._queue = deque(engine._Job(None, block) for block in range(blocks))
        monkeypatch.setattr(workers, "_reference", lambda content: content, raising=False)
        return workers, given

    return made


def test_of_many_blocks_one_waits_at_each_worker(pool):
    workers, given = pool(20)
    assert workers._feed()
    assert given == [[0, 2], [1, 3]]
    assert workers._feed()
    assert given == [[0, 2], [1, 3]]


def test_the_last_blocks_wait_for_whoever_is_free_first(pool):
    workers, given = pool(9)
    workers._feed()
    assert given == [[0], [1]]
    workers._feed([workers._workers[1]])
    assert given == [[0], [1, 2]]  # before its result has been fetched
    workers._workers[1].jobs.popleft()
    workers._feed()
    assert given == [[0], [1, 2]]


def test_there_is_something_to_wait_for_until_the_last_job_is_done(pool):
    workers, given = pool(1)
    assert workers._feed()
    assert given == [[0], []]
    workers._workers[0].jobs.popleft()
    assert not workers._feed()


def test_a_worker_that_is_not_up_gets_nothing(pool):
    workers, given = pool(3)
    workers._workers[0].up = object()
    workers._feed()
    assert given == [[], [0]]
