"""A run on Ray nodes of one and of three cores; then a model of 8 MB, counted where it goes.

Prints the run's result, who worked where, and the bytes that each node's object store took in.
"""

import json
import sys
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from several_nodes import cluster_of, created_bytes

import fedsim
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.ray import RayGrid, RayWorkers

CLIENTS, ROUNDS, NUMBERS = 16, 3, 2_000_000


def app(message, context):
    import ray

    total = float(message.content["model"]["w"].numpy().sum())
    found = {"total": total, "node": ray.get_runtime_context().get_node_id()}
    return Message(RecordDict({"reply": ConfigRecord(found)}), reply_to=message)


def rounds(ray):
    """Send each round's model to all clients; return what stores took in, by node and round."""
    nodes = {node["NodeID"]: node for node in ray.nodes()}
    workers = RayWorkers(WorkerCode(app), Population(CLIENTS, {}), 4)
    workers.pids()  # all are up
    grid, took, seen = RayGrid(workers, size=1), [], set()
    for round in range(ROUNDS):
        before = {id: created_bytes(node) for id, node in nodes.items()}
        weights = np.full(NUMBERS, round, dtype=np.float32)
        content = RecordDict({"model": ArrayRecord({"w": Array(weights)})})
        replies = grid.broadcast(
            content, list(grid.get_node_ids()), "train", ttl=None, group_id="1"
        )
        found = [reply.content["reply"] for reply in replies]
        assert [own["total"] for own in found] == [float(NUMBERS * round)] * CLIENTS
        seen |= {own["node"] for own in found}
        after = {id: created_bytes(node) for id, node in nodes.items()}
        took.append({nodes[id]["NodeName"]: after[id] - before[id] for id in nodes})
    workers.close()
    return took, sorted(nodes[id]["NodeName"] for id in seen)


def main(folder: Path, config: dict) -> None:
    import ray

    cluster = cluster_of(num_cpus=1)
    cluster.add_node(num_cpus=3, node_name="big")
    config["engine"]["ray_address"] = cluster.address
    result = fedsim.run(config, runs=folder / "runs")
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    took, seen = rounds(ray)
    ray.shutdown()
    facts = {"sha": result.model_sha256, "workers": result.stored.facts["workers"]}
    print(json.dumps({**facts, "took": took, "seen": seen}))
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
