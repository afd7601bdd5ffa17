"""A run on two Ray nodes; the second is told by its environment that data are where none can be."""

import json
import sys
from pathlib import Path

from several_nodes import cluster_of

import fedsim


def main(folder: Path, config: dict) -> None:
    """Run `config` on one core of each, with an operator's mistake on the second."""
    cluster = cluster_of(num_cpus=1)
    nowhere = folder / "file"
    nowhere.touch()
    bare = {"FEDSIM_DATA": str(nowhere / "data")}
    cluster.add_node(num_cpus=1, node_name="bare", env_vars=bare)
    config["engine"]["ray_address"] = cluster.address
    result = fedsim.run(config, runs=folder / "runs")
    summary = result.stored.summary
    print(json.dumps({"sha": result.model_sha256, "incidents": summary["incidents"]}))
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
