"""How time and memory grow: with the population, with the cohort, with the rounds; start-up too.

python benchmarks/growth.py

Synthetic clients, made where they are used, in process: one process is all there is to watch.
"""

import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import psutil

import fedsim

MB = 2**20
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


def measure(folder: Path, clients: int, cohort: int, rounds: int) -> tuple[float, list[float]]:
    """Return median seconds per round, what is stored of it included, and MB after each round."""
    stamps, memory = [], []

    def listen(event: object) -> None:
        if type(event).__name__ == "RoundDone":
            stamps.append(perf_counter())
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
    return statistics.median(b - a for a, b in pairwise(stamps[1:])), memory


def start_up(folder: Path, grid: str) -> float:
    """Return seconds from starting Python to the first client done."""
    import time

    command = [sys.executable, "-c", START, str(time.time()), grid, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0])


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(folder, 1000, 100, 3)
        print("population, cohort 200: s/round, MB")
        for clients in (10**3, 10**4, 10**5, 10**6):
            seconds, memory = measure(folder, clients, 200, 8)
            print(f"{clients:9,d} {seconds:8.3f} {memory[-1]:8.0f}")
        print("cohort of 10,000: s/round, ms/client")
        for cohort in (50, 100, 200, 400, 800):
            seconds, _ = measure(folder, 10**4, cohort, 8)
            print(f"{cohort:9,d} {seconds:8.3f} {1000 * seconds / cohort:8.2f}")
        _, memory = measure(folder, 10**4, 100, 500)
        print(f"500 rounds, 10,000 clients: {memory[-1] - memory[19]:+.1f} MB from round 20 on")
        for grid in ("inprocess", "ray"):
            seconds = statistics.median(start_up(folder, grid) for _ in range(3))
            print(f"start-up to the first client done, {grid}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
