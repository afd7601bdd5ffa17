"""Let two fedsim runs join one Ray cluster of two cores at once, and print what they came to.

A process of its own, because it forks and is connected to a cluster of its own.
"""

import json
import os
import sys
import time
from pathlib import Path

import fedsim
from fedsim.events import Stage

CORES = 2


def start(config: dict, folder: Path, runs: int) -> int:
    """Start a run in a child; its workers start when all runs are about to start theirs."""
    pid = os.fork()
    if pid:
        return pid

    def meet(event):
        if isinstance(event, Stage) and event.text == "starting Ray workers":
            (folder / f"{os.getpid()}.ready").touch()
            wait_for(folder, "*.ready", runs)

    try:
        os.environ["RAY_ADDRESS"] = wait_for(folder, "*.address", 1)[0].stem
        result = fedsim.run(config, runs=folder / str(os.getpid()), listener=meet)
        found = {"sha": result.model_sha256, "workers": result.stored.facts["workers"]}
        found["incidents"] = result.stored.summary["incidents"]
        (folder / f"{os.getpid()}.json").write_text(json.dumps(found))
    finally:
        os._exit(0)


def wait_for(folder: Path, pattern: str, count: int) -> list[Path]:
    """Wait until there are so many files."""
    while len(found := list(folder.glob(pattern))) < count:
        time.sleep(0.01)
    return found


def main(folder: Path, configs: list[dict]) -> None:
    """Start the runs, then the cluster; watch how many workers live at any moment."""
    running = [start(config, folder, len(configs)) for config in configs]
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": CORES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    (folder / f"{cluster.address}.address").touch()
    most = 0
    while running:
        running = [pid for pid in running if os.waitpid(pid, os.WNOHANG)[0] == 0]
        alive = [a for a in ray._private.state.actors().values() if a["State"] == "ALIVE"]
        most = max(most, len(alive))
        time.sleep(0.02)
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    print(json.dumps({"runs": runs, "most": most, "cores": ray.cluster_resources()["CPU"]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
