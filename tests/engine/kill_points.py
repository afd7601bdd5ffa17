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
from fedsim.store import RunStore


def start(config: dict, runs: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            fedsim.run(config, runs=runs)
        finally:
            os._exit(0)
    return pid


def main(folder: str, points: int, config: dict) -> None:
    whole = fedsim.run(config, runs=f"{folder}/whole")
    started = time.monotonic()
    fedsim.run(config, runs=f"{folder}/timed")
    duration = time.monotonic() - started
    chance = random.Random(20)
    outcomes = []
    for point in range(points):
        runs = f"{folder}/{point}"
        pid = start(config, runs)
        time.sleep(duration * (point + chance.random()) / points)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
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
