"""A run on two Ray nodes; the second is told by its environment that data are where none can be."""

import json
import sys
import threading
import time
from pathlib import Path

from several_nodes import cluster_of

import fedsim


def main(folder: Path, config: dict) -> None:
    """Run `config` on one core of each, with an operator's mistake on the second.

    The client that waits for one on another node is let go once two workers there were given up.
    """
    cluster = cluster_of(num_cpus=1)
    nowhere = folder / "file"
    nowhere.touch()
    bare = {"FEDSIM_DATA": str(nowhere / "data")}
    cluster.add_node(num_cpus=1, node_name="bare", env_vars=bare)
    config["engine"]["ray_address"] = cluster.address
    (folder / "first").write_text(cluster.head_node.node_id)

    def watch() -> None:
        import ray

        while True:
            time.sleep(0.2)
            states = ray._private.state.actors() if ray.is_initialized() else {}
            if sum(actor["State"] == "DEAD" for actor in states.values()) >= 2:
                break
        with (folder / "log").open("a") as log:
            log.write("1 -1 bare\n")

    threading.Thread(target=watch, daemon=True).start()
    result = fedsim.run(config, runs=folder / "runs")
    summary = result.stored.summary
    print(json.dumps({"sha": result.model_sha256, "incidents": summary["incidents"]}))
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
