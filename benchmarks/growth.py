"""How time and memory grow: with the population, with the cohort, with the rounds; start-up too.

python benchmarks/growth.py [--rounds 40] [--write]

Synthetic clients, made where they are used, in process: one process is all there is to watch. Every
run has a process of its own; those that are compared run at the same time, but a round of each in
turns, because this takes less time than a machine's speed needs to change. Storing a round, which
a run does behind the next one, is shown by itself. Memory is what the process holds after its last
round (RSS), and the most it ever held, report included.
`--write`: put the text into docs/performance.md.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import page
import psutil

import fedsim

MB = 2**20
POPULATIONS, COHORTS = (10**3, 10**4, 10**5, 10**6), (50, 100, 200, 400, 800)
LONG_ROUNDS, SETTLED = 500, 20
MOST = 1.10  # of the least time and memory of a population; of a straight line through cohorts
STARTS = 5
MOST_MB, START_S = 50.0, {"inprocess": 4.0, "ray": 12.0}
START = """
import sys, time
import fedsim
started = float(sys.argv[1])
def listen(event):
    if type(event).__name__ == "ClientsDone":
        print(time.time() - started, flush=True)
        raise SystemExit
fedsim.run("digits", ["engine.grid=" + sys.argv[2]], runs=sys.argv[3], listener=listen)
"""


def measure(
    folder: Path, clients: int, cohort: int, rounds: int, *, in_turns: bool
) -> dict[str, Any]:
    """Run rounds; return the median seconds of storing one, MB after each round, and peak MB.

    `in_turns`: before each round but the first, say how long the last one took and wait for a line
    that lets it go on. What is stored meanwhile is in no round's time.
    """
    memory, stored = [], []
    started, last = perf_counter(), 0

    def listen(event: object) -> None:
        nonlocal started, last
        kind = type(event).__name__
        if kind == "RoundDone":
            stored.append(event.record.seconds["checkpoint"])
            memory.append(psutil.Process().memory_info().rss / MB)
        if kind == "ClientsDone" and in_turns and event.done >= event.asked and event.round > last:
            last = event.round
            print(perf_counter() - started, flush=True)
            sys.stdin.readline()
            started = perf_counter()

    fedsim.run(
        {
            "name": "growth",
            "data": {"name": "synthetic", "clients": clients},
            "model": {"name": "linear"},
            "local": {"batch_size": 10},
            "rounds": {"count": rounds, "cohort": cohort},
            "evaluation": {"central_every": 0, "federated_every": 0},
            "engine": {"grid": "inprocess", "tier": "resident"},
        },
        runs=folder,
        listener=listen,
    )
    return {
        "stored": statistics.median(stored[1:]),
        "memory": memory,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB,
    }


def apart(
    folder: Path, clients: int, cohort: int, rounds: int, *, in_turns: bool
) -> subprocess.Popen[str]:
    """`measure` in a process of its own."""
    options = [str(folder), *map(str, (clients, cohort, rounds, int(in_turns)))]
    command = [sys.executable, __file__, "--one", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def told(process: subprocess.Popen[str]) -> Any:
    """Return what a process says next."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"a measurement ended with exit code {process.wait()}")
    return json.loads(line)


def go(process: subprocess.Popen[str]) -> None:
    """Let a process go on with a round."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def start_up(folder: Path, grid: str) -> float:
    """Return seconds from starting Python to the first client done."""
    command = [sys.executable, "-c", START, str(time.time()), grid, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0])


def in_turns(folder: Path, runs: list[tuple[int, int]], rounds: int) -> list[dict[str, float]]:
    """Measure (population, cohort) pairs, a round of each in turns; return `levelled` figures."""
    processes = [apart(folder, *pair, rounds, in_turns=True) for pair in runs]
    for process in processes:
        told(process)  # the first round, and all that comes before it
    turns = []
    for number in range(2, rounds + 1):
        turns.append([])
        for process in processes:
            go(process)
            turns[-1].append(told(process))
        print(number, " ".join(f"{own:.3f}" for own in turns[-1]), file=sys.stderr)
    for process in processes:
        go(process)
    rest = [told(process) for process in processes]
    return [
        own | {"memory": own["memory"][-1], "seconds": seconds}
        for own, seconds in zip(rest, levelled(turns), strict=True)
    ]


def levelled(turns: list[list[float]]) -> list[float]:
    """Return each run's median seconds; how fast the machine was in a turn is taken out.

    Each figure is divided by its turn's geometric mean, and the median of these quotients
    multiplied by the median of the means.
    """
    seconds = np.array(turns)
    means = np.exp(np.log(seconds).mean(axis=1))
    quotients = np.median(seconds / means[:, None], axis=0)
    return [float(each) for each in quotients * np.median(means)]


def independence(rows: list[dict[str, float]]) -> list[str]:
    """Say whether populations differ in time and memory: the largest figure by the smallest."""
    lines = []
    for name, what in (("seconds", "time"), ("memory", "memory"), ("peak", "memory at most")):
        values = [row[name] for row in rows]
        lines.append(page.verdict(f"{what}, most by least", max(values) / min(values), MOST))
    return lines


def linearity(seconds: list[float]) -> list[str]:
    """Say what a client of a cohort takes, and how far from a straight line cohorts are."""
    slope, constant = np.polyfit(COHORTS, seconds, 1, w=1 / np.array(seconds))
    off = max(abs(constant + slope * c - s) / s for c, s in zip(COHORTS, seconds, strict=True))
    fit = f"{1000 * slope:.2f} ms per client and {1000 * constant:.0f} ms per round"
    return [f"- {fit}", page.verdict("off that line at most", off, MOST - 1)]


def by_population(folder: Path, rounds: int) -> list[str]:
    """Measure populations; return lines of a table and what is required of it."""
    rows = in_turns(folder, [(clients, 200) for clients in POPULATIONS], rounds)
    lines = page.table(
        ["population (cohort 200)", *(f"{clients:,d}" for clients in POPULATIONS)],
        [
            ["s/round", *(f"{row['seconds']:.3f}" for row in rows)],
            ["MB", *(f"{row['memory']:.0f}" for row in rows)],
            ["MB at most", *(f"{row['peak']:.0f}" for row in rows)],
        ],
    )
    return [*lines, "", *independence(rows)]


def by_cohort(folder: Path, rounds: int) -> list[str]:
    """Measure cohorts; return lines, with a straight line through the figures."""
    rows = in_turns(folder, [(10**4, cohort) for cohort in COHORTS], rounds)
    seconds = [row["seconds"] for row in rows]
    lines = page.table(
        ["cohort (of 10,000)", *map(str, COHORTS)],
        [
            ["s/round", *(f"{own:.3f}" for own in seconds)],
            ["of it storing", *(f"{row['stored']:.3f}" for row in rows)],
            ["MB", *(f"{row['memory']:.0f}" for row in rows)],
        ],
    )
    return ["", *lines, "", *linearity(seconds)]


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, *numbers, turns = arguments.one
        found = measure(Path(name), *map(int, numbers), in_turns=turns == "1")
        print(json.dumps(found))
        return
    # As where fedsim is installed: what Python compiles of it is kept.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = by_population(folder, arguments.rounds) + by_cohort(folder, arguments.rounds)
        memory = told(apart(folder, 10**4, 100, LONG_ROUNDS, in_turns=False))["memory"]
        grown = memory[-1] - memory[SETTLED - 1]
        what = f"{LONG_ROUNDS} rounds, 10,000 clients, MB more than after round {SETTLED}"
        lines.append(page.verdict(what, grown, MOST_MB, ".1f"))
        for grid, most in START_S.items():
            seconds = statistics.median(start_up(folder, grid) for _ in range(STARTS))
            what = f"s from starting Python to the first client done, {grid}"
            lines.append(page.verdict(what, seconds, most, ".1f"))
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        page.put("growth", text)


if __name__ == "__main__":
    main()
