"""Run the cells of a sweep: what is done is not done again, what was interrupted goes on.

Several at once run in processes of their own, so that one which is killed takes no other with it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from fedsim import api
from fedsim.errors import FedsimError, Interrupted
from fedsim.store import RunStore, StoredRun
from fedsim.sweep._cells import Cell, Sweep, write_sweep

__all__ = ["Outcome", "run_sweep"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended: "finished", "found" (done before), "failed", "interrupted" or "left"."""

    values: dict[str, str]
    status: str
    run: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the runs of a sweep are, and where their data."""

    runs: str | None
    data_dir: str | None


def run_sweep(
    sweep: Sweep,
    *,
    runs: str | Path | None = None,
    data_dir: str | Path | None = None,
    jobs: int = 1,
    tell: Callable[[Outcome, int, int], None] = lambda outcome, done, all_: None,
) -> list[Outcome]:
    """Run every cell that has no finished run yet; return an outcome for each, in their order.

    `jobs`: so many at once, each in a process of its own. `tell`: is told of each outcome as it
    comes, how many there are so far, and of how many. A cell that fails stops no other. After
    Ctrl-C the rounds that are going on are finished, and the rest is left.
    """
    store = RunStore(runs)
    write_sweep(store.root, sweep)
    place = _Place(str(runs) if runs else None, str(data_dir) if data_dir else None)
    stop, lock = threading.Event(), threading.Lock()
    outcomes: list[Outcome | None] = [None] * len(sweep.cells)

    def one(index: int, work: Callable[[Cell, _Place], Outcome]) -> None:
        cell = sweep.cells[index]
        left = Outcome(dict(cell.values), "left")
        found = left if stop.is_set() else work(cell, place)
        if found.status == "interrupted":
            stop.set()
        with lock:
            outcomes[index] = found
            if found.status != "left":
                tell(found, sum(o is not None for o in outcomes), len(outcomes))

    if jobs <= 1:
        for index in range(len(sweep.cells)):
            one(index, _run_cell)
    else:
        _side_by_side(len(sweep.cells), jobs, one, stop)
    return [outcome for outcome in outcomes if outcome is not None]


def _side_by_side(
    count: int,
    jobs: int,
    one: Callable[[int, Callable[[Cell, _Place], Outcome]], None],
    stop: threading.Event,
) -> None:
    """Have `jobs` threads, each with a process that runs one cell after another."""
    own = threading.local()
    pools: list[ProcessPoolExecutor] = []

    def in_a_process(cell: Cell, place: _Place) -> Outcome:
        if getattr(own, "pool", None) is None:
            own.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            pools.append(own.pool)
        try:
            found: Outcome = own.pool.submit(_run_cell, cell, place).result()
        except BrokenProcessPool:
            own.pool = None
            return Outcome(dict(cell.values), "failed", error="its process was killed")
        return found

    threads = ThreadPoolExecutor(min(jobs, count))
    try:
        futures = [threads.submit(one, index, in_a_process) for index in range(count)]
        for future in futures:
            future.result()
    except KeyboardInterrupt:  # the children got it too, and finish their rounds
        stop.set()
        threads.shutdown(wait=True)
    finally:
        threads.shutdown(wait=True)
        for pool in pools:
            pool.shutdown()


def _run_cell(cell: Cell, place: _Place) -> Outcome:
    """Run a cell, go on with it, or find that it is done."""
    values = dict(cell.values)
    try:
        known = _latest(RunStore(place.runs), cell.run_name)
        if known is not None and known.status == "finished":
            return Outcome(values, "found", known.id)
        if known is not None:
            result = api.resume(known.id, runs=place.runs, data_dir=place.data_dir)
        else:
            result = api.run(cell.config, runs=place.runs, data_dir=place.data_dir)
    except Interrupted as error:
        return Outcome(values, "interrupted", error=str(error))
    except KeyboardInterrupt:
        return Outcome(values, "interrupted", error="stopped")
    except FedsimError as error:
        return Outcome(values, "failed", error=str(error))
    except Exception as error:  # a defect of a part: the other cells go on
        return Outcome(values, "failed", error=f"{type(error).__name__}: {error}")
    return Outcome(values, "finished", result.run_id)


def _latest(store: RunStore, name: str) -> StoredRun | None:
    """Return the run of a name to go by: a finished one before others, else the latest."""
    found = [run for run in store.all() if run.name == name]
    finished = [run for run in found if run.status == "finished"]
    ordered = finished or found
    return ordered[-1] if ordered else None
