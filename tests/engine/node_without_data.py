"""A run on two Ray nodes, the second of which has neither the data nor the run's cache of them.

Both are processes of this machine. That the second sees no data is a mount namespace of its own, in
which an empty file system covers both folders, as on a machine that nobody copied them to.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from several_nodes import cluster_of

import fedsim

START = 'for d in "$1" "$2"; do mount -t tmpfs none "$d"; done; shift 2; exec "$@"'


def bare_node(address: str, *hidden: Path) -> subprocess.Popen[bytes]:
    """Start a Ray node from which folders are hidden."""
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "start", "--address", address, "--num-cpus", "1", "--node-name", "bare",
               "--disable-usage-stats", "--block"]  # fmt: skip
    around = ["unshare", "--mount", "sh", "-ec", START, "sh", *hidden]
    return subprocess.Popen([*map(str, around), *map(str, command)], stdout=subprocess.DEVNULL)


def let_go(folder: Path) -> None:
    """Write down that two workers were given up, for the client that waits for another node."""
    import ray

    while True:
        time.sleep(0.2)
        states = ray._private.state.actors() if ray.is_initialized() else {}
        if sum(actor["State"] == "DEAD" for actor in states.values()) >= 2:
            break
    with (folder / "log").open("a") as log:
        log.write("1 -1 bare\n")


def main(folder: Path, config: dict) -> None:
    import ray

    data, cache = folder / "data", folder / "runs" / "cache"
    cache.mkdir(parents=True)
    cluster = cluster_of(num_cpus=1)
    bare = bare_node(cluster.address, data, cache)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        assert bare.poll() is None
        time.sleep(0.2)
    ray.shutdown()
    config["engine"]["ray_address"] = cluster.address
    (folder / "first").write_text(cluster.head_node.node_id)
    threading.Thread(target=let_go, args=(folder,), daemon=True).start()
    try:
        result = fedsim.run(config, runs=folder / "runs")
    finally:
        bare.terminate()
        bare.wait()
        cluster.shutdown()
    summary = result.stored.summary
    print(json.dumps({"sha": result.model_sha256, "incidents": summary["incidents"]}))


if __name__ == "__main__":
    os.environ.pop("FEDSIM_DATA", None)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
