"""A run through Ray Client (ray://): its server is started here, as `ray start` would."""

import json
import socket
import sys
from pathlib import Path

from several_nodes import cluster_of

import fedsim
from fedsim.engine.cluster import look


def main(folder: Path, config: dict) -> None:
    """Run `config` on a cluster that this process is no part of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    cluster = cluster_of(num_cpus=2, ray_client_server_port=port)
    config["engine"]["ray_address"] = f"ray://127.0.0.1:{port}"
    result = fedsim.run(config, runs=folder / "runs")
    found = look(config["engine"]["ray_address"])
    nodes = [node.name.split()[0] for node in found.nodes]
    facts = {"sha": result.model_sha256, "incidents": result.stored.summary["incidents"]}
    print(json.dumps({**facts, "nodes": nodes, "runs": len(found.runs)}))
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
