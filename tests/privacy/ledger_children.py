"""Processes that share a ledger, killed or left to compete; prints what came of it.

A process of its own, because it forks: importing the accountant anew for each would take seconds.
Usage: ledger_children.py FOLDER kill POINTS | FOLDER compete CHILDREN
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fedsim.errors import BudgetExceededError
from fedsim.privacy.budget import Budget, Spent
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Ledger, Spend

RELEASE = Release("gaussian", 1.0, Sampling("poisson", 0.08))


def entry(run: str, number: int) -> Entry:
    spends = (Spend(RELEASE, (0, 1, 2)), Spend(RELEASE, (number % 50 + 3,)))
    return Entry(run, number, "example", "digits", "2026-01-01T00:00:00Z", "zero-out", spends)


def in_small_pieces(descriptor: int, content: bytes) -> int:
    """Write as a slow disk does: a process can die between any two of them."""
    time.sleep(0.0002)
    return WRITE(descriptor, bytes(content[:100]))


WRITE = os.write


def admit_in_a_loop(path: Path, run: str, budget: Budget, pipe: int) -> None:
    """Say so after each release, which is after each admission."""
    ledger = Ledger(path)
    try:
        for number in range(1, 100_000):
            ledger.admit(entry(run, number), budget)
            WRITE(pipe, b"x")
    except BudgetExceededError:
        pass


def start(path: Path, run: str, budget: Budget, *, is_slow: bool) -> tuple[int, int]:
    """Return a child's process id and the pipe that gets one byte for each of its releases."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        if is_slow:
            os.write = in_small_pieces  # type: ignore[assignment]
        try:
            admit_in_a_loop(path, run, budget, theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    return pid, ours


def count(pipe: int) -> int:
    with os.fdopen(pipe, "rb") as file:
        return len(file.read())


def kill(path: Path, points: int) -> None:
    chance = random.Random(7)
    released, found = 0, []
    for point in range(points):
        pid, pipe = start(path, f"run-{point}", Budget(1e9, 1e-5), is_slow=point % 2 == 0)
        time.sleep(0.06 * chance.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        released += count(pipe)
        found.append((released, len(Ledger(path).entries()) if path.exists() else 0))
    torn = [file.read_bytes().decode() for file in Ledger(path).torn()]
    json.dump({"found": found, "torn": torn}, sys.stdout)


def compete(path: Path, children: int) -> None:
    budget = Budget(6.0, 1e-5)
    started = [start(path, f"run-{child}", budget, is_slow=child == 0) for child in range(children)]
    released = [count(pipe) for _, pipe in started]
    for pid, _ in started:
        os.waitpid(pid, 0)
    entries = Ledger(path).entries()
    alone, ledger = 0, Ledger(path.with_name("alone.jsonl"))
    try:
        while True:
            ledger.admit(entry("run-0", 0), budget)
            alone += 1
    except BudgetExceededError:
        pass
    runs = sorted({entry.run for entry in entries})
    json.dump({"released": released, "entries": len(entries), "alone": alone, "runs": runs},
              sys.stdout)  # fmt: skip


if __name__ == "__main__":
    Spent().check(entry("", 0), Budget(1e9, 1e-5))  # imports what takes long, once
    place = Path(sys.argv[1]) / "ledger" / "digits.jsonl"
    {"kill": kill, "compete": compete}[sys.argv[2]](place, int(sys.argv[3]))
