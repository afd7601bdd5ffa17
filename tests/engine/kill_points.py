"""Kill a run at random moments with SIGKILL, resume it, and print what it came to.

A process of its own, because it forks: each run is a child that is killed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import fedsim
from fedsim.events import RoundDone
from fedsim.store import RunStore


def start(config: dict, runs: str) -> tuple[int, int]:
    """Run in a fork; return its process and a pipe that gets a byte for each round done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fedsim.run(config, runs=runs, listener=lambda event: tell(writing, event))
        finally:
            os._exit(0)
    os.close(writing)
    return pid, reading


def tell(writing: int, event: object) -> None:
    if isinstance(event, RoundDone):
        os.write(writing, b".")


def main(folder: str, points: int, config: dict) -> None:
    """Kill at `points` moments: each a share of the rounds, then a random part of a round.

    Rounds are counted, not timed: on a busy machine a fork is slower than the run before it.
    """
    whole = fedsim.run(config, runs=f"{folder}/whole")
    started = time.monotonic()
    fedsim.run(config, runs=f"{folder}/timed")
    rounds = config["rounds"]["count"]
    round_s = (time.monotonic() - started) / rounds
    chance = random.Random(20)
    outcomes = []
    for point in range(points):
        runs = f"{folder}/{point}"
        pid, done = start(config, runs)
        for _ in range(point * rounds // points):
            os.read(done, 1)
        time.sleep(round_s * chance.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(done)
        stored = RunStore(runs).all() if Path(runs, "fedsim.db").exists() else []
        if not stored:
            outcomes.append({"point": point, "state": "before the run was created"})
            continue
        before = RunStore(runs).get("last")
        if before.status == "finished":
            outcomes.append(
                {"point": point, "state": "finished", "sha": before.summary["model_sha256"]}
            )
            continue
        result = fedsim.resume("last", runs=runs)
        outcomes.append(
            {
                "point": point,
                "state": f"after {len(before.rounds)} rounds",
                "sha": result.model_sha256,
                "metrics": [entry["metrics"] for entry in result.history],
            }
        )
    json.dump(
        {
            "sha": whole.model_sha256,
            "metrics": [entry["metrics"] for entry in whole.history],
            "outcomes": outcomes,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
