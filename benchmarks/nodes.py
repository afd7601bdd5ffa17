"""What crosses to the nodes of a Ray cluster: the model, once per round to each.

python benchmarks/nodes.py [--write]

Nodes are Rays of their own on this machine (`ray.cluster_utils`), with one object store each. A
model of 1.63 M parameters goes to all clients of a round, one client a block, so that every worker
is asked many times; counted are the bytes that each node's store takes in, its own and others'. The
first round starts the workers and does not count.
"""

import argparse
import os
import statistics
from typing import Any

import page

os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

NODES, CLIENTS, ROUNDS, NUMBERS = ((1, 3), (2, 2), (1, 1, 2)), 24, 6, 1_630_090
TARGET = 1.05  # times the model: messages have heads


def app(message: Any, context: Any) -> Any:
    """Read the model, as training would."""
    import ray
    from flwr.app import ConfigRecord, Message, RecordDict

    total = float(message.content["model"]["w"].numpy().sum())
    found = {"total": total, "node": ray.get_runtime_context().get_node_id()}
    return Message(RecordDict({"reply": ConfigRecord(found)}), reply_to=message)


def created(node: Any) -> int:
    """Return how many bytes a node's object store has taken in."""
    from ray._private.internal_api import node_stats

    found = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(found.store_stats.cumulative_created_bytes)


def measured(cores: tuple[int, ...]) -> tuple[list[list[int]], list[int]]:
    """Run rounds on nodes of so many cores; return by round and by node what stores took in.

    The second list: the clients that each node trained in all of them.
    """
    import numpy as np
    import ray
    from flwr.app import Array, ArrayRecord, RecordDict
    from ray.cluster_utils import Cluster

    from fedsim.engine.blocks import Population, WorkerCode
    from fedsim.engine.ray import RayGrid, RayWorkers

    first = {"include_dashboard": False, "num_cpus": cores[0]}
    cluster = Cluster(initialize_head=True, head_node_args=first)
    for more in cores[1:]:
        cluster.add_node(num_cpus=more)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    nodes = {node["NodeID"]: node for node in ray.nodes()}
    workers = RayWorkers(WorkerCode(app), Population(CLIENTS, {}), sum(cores))
    workers.pids()  # all are up
    grid, rows, trained = RayGrid(workers, size=1), [], dict.fromkeys(nodes, 0)
    for number in range(ROUNDS + 1):
        before = {key: created(node) for key, node in nodes.items()}
        weights = np.full(NUMBERS, number, dtype=np.float32)
        content = RecordDict({"model": ArrayRecord({"w": Array(weights)})})
        for reply in grid.broadcast(content, grid.get_node_ids(), "train", ttl=None, group_id="1"):
            assert reply.content["reply"]["total"] == NUMBERS * number
            trained[reply.content["reply"]["node"]] += number > 0
        if number:
            rows.append([created(node) - before[key] for key, node in nodes.items()])
    workers.close()
    ray.shutdown()
    cluster.shutdown()
    return rows, list(trained.values())


def lines() -> list[str]:
    """Measure, and return the table and the verdict."""
    model, rows, worst = 4 * NUMBERS, [], 0.0
    for cores in NODES:
        took, trained = measured(cores)
        middle = [statistics.median(column) for column in zip(*took, strict=True)]
        most = max(max(row) for row in took) / model
        worst = max(worst, most)
        rows.append(
            [
                " + ".join(map(str, cores)),
                " + ".join(f"{count / ROUNDS:.1f}" for count in trained),
                " + ".join(f"{each / 1e6:.2f}" for each in middle),
                f"{most:.3f}",
            ]
        )
    head = ["cores of nodes", "clients of each, a round", "MB into each store, a round", "x model"]
    return [
        *page.table(head, rows),
        "",
        page.verdict(f"times a model of {model / 1e6:.2f} MB, at most", worst, TARGET),
    ]


def main() -> None:
    """Print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    text = "\n".join(lines())
    print(text)
    if arguments.write:
        page.put("nodes", text)


if __name__ == "__main__":
    main()
