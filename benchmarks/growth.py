"""How time and memory grow: with the population, with the cohort, with the rounds; start-up too.

python benchmarks/growth.py [--cycles 5] [--write]

Synthetic clients, made where they are used, in process: one process is all there is to watch. Every
run has a process of its own; those that are compared take turns, and medians are shown. Memory is
what the process holds after its last round (RSS), and the most it ever held, report included.
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
from itertools import pairwise
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


def measure(folder: Path, clients: int, cohort: int, rounds: int) -> dict[str, Any]:
    """Return the median seconds of a round and of its storing, MB after each round, peak MB."""
    stamps, memory, stored = [], [], []

    def listen(event: object) -> None:
        if type(event).__name__ == "RoundDone":
            stamps.append(perf_counter())
            stored.append(event.record.seconds["checkpoint"])
            memory.append(psutil.Process().memory_info().rss / MB)

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
        "seconds": statistics.median(b - a for a, b in pairwise(stamps[1:])),
        "stored": statistics.median(stored[1:]),
        "memory": memory,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB,
    }


def apart(folder: Path, clients: int, cohort: int, rounds: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    options = [str(folder), *map(str, (clients, cohort, rounds))]
    command = [sys.executable, __file__, "--one", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def start_up(folder: Path, grid: str) -> float:
    """Return seconds from starting Python to the first client done."""
    command = [sys.executable, "-c", START, str(time.time()), grid, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0])


def in_turns(folder: Path, runs: list[tuple[int, int]], cycles: int) -> list[dict[str, float]]:
    """Measure (population, cohort) pairs in turns; return what `levelled` makes of it."""
    found = []
    for cycle in range(cycles):
        found.append([])
        for clients, cohort in runs:
            own = apart(folder, clients, cohort, 8)
            found[-1].append(own | {"memory": own["memory"][-1]})
            print(f"{cycle + 1} {clients} {cohort}: {own['seconds']:.3f} s", file=sys.stderr)
    return levelled(found)


def levelled(cycles: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Return each run's medians over cycles; how fast the machine was in a cycle taken out.

    Seconds are compared within a cycle: each is divided by its cycle's geometric mean, and the
    median of these quotients multiplied by the median of the means.
    """
    means = [np.exp(np.mean([np.log(own["seconds"]) for own in cycle])) for cycle in cycles]
    rows = []
    for each in zip(*cycles, strict=True):
        row = {name: statistics.median(own[name] for own in each) for name in each[0]}
        quotients = [own["seconds"] / mean for own, mean in zip(each, means, strict=True)]
        rows.append(row | {"seconds": statistics.median(quotients) * statistics.median(means)})
    return rows


def verdict(what: str, value: float, most: float, form: str = ".3f") -> str:
    """Return a line that says whether a value is as small as it has to be."""
    said = "PASS" if value <= most else "FAIL"
    return f"- {what}: {value:{form}} (target {most:{form}}) {said}"


def independence(rows: list[dict[str, float]]) -> list[str]:
    """Say whether populations differ in time and memory: the largest figure by the smallest."""
    lines = []
    for name, what in (("seconds", "time"), ("memory", "memory"), ("peak", "memory at most")):
        values = [row[name] for row in rows]
        lines.append(verdict(f"{what}, most by least", max(values) / min(values), MOST))
    return lines


def linearity(seconds: list[float]) -> list[str]:
    """Say what a client of a cohort takes, and how far from a straight line cohorts are."""
    slope, constant = np.polyfit(COHORTS, seconds, 1, w=1 / np.array(seconds))
    off = max(abs(constant + slope * c - s) / s for c, s in zip(COHORTS, seconds, strict=True))
    fit = f"{1000 * slope:.2f} ms per client and {1000 * constant:.0f} ms per round"
    return [f"- {fit}", verdict("off that line at most", off, MOST - 1)]


def by_population(folder: Path, cycles: int) -> list[str]:
    """Measure populations; return lines of a table and what is required of it."""
    rows = in_turns(folder, [(clients, 200) for clients in POPULATIONS], cycles)
    lines = page.table(
        ["population (cohort 200)", *(f"{clients:,d}" for clients in POPULATIONS)],
        [
            ["s/round", *(f"{row['seconds']:.3f}" for row in rows)],
            ["MB", *(f"{row['memory']:.0f}" for row in rows)],
            ["MB at most", *(f"{row['peak']:.0f}" for row in rows)],
        ],
    )
    return [*lines, "", *independence(rows)]


def by_cohort(folder: Path, cycles: int) -> list[str]:
    """Measure cohorts; return lines, with a straight line through the figures."""
    rows = in_turns(folder, [(10**4, cohort) for cohort in COHORTS], cycles)
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
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, *numbers = arguments.one
        print(json.dumps(measure(Path(name), *map(int, numbers))))
        return
    # As where fedsim is installed: what Python compiles of it is kept.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = by_population(folder, arguments.cycles) + by_cohort(folder, arguments.cycles)
        memory = apart(folder, 10**4, 100, LONG_ROUNDS)["memory"]
        grown = memory[-1] - memory[SETTLED - 1]
        what = f"{LONG_ROUNDS} rounds, 10,000 clients, MB more than after round {SETTLED}"
        lines.append(verdict(what, grown, MOST_MB, ".1f"))
        for grid, most in START_S.items():
            seconds = statistics.median(start_up(folder, grid) for _ in range(arguments.cycles))
            what = f"s from starting Python to the first client done, {grid}"
            lines.append(verdict(what, seconds, most, ".1f"))
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        page.put("growth", text)


if __name__ == "__main__":
    main()
