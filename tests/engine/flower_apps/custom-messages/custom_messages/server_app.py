"""custom-messages: no strategy; push and pull, contents of their own for every node."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


def nodes_of(grid: Grid) -> list[int]:
    """Wait for nodes."""
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    return sorted(nodes)


def pulled(grid: Grid, ids: list[str]) -> list[Message]:
    """Pull until all replies are there."""
    replies: list[Message] = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(set(ids) - {r.metadata.reply_to_message_id for r in replies})
        time.sleep(0.05)
    return replies


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask, in four ways."""
    nodes = nodes_of(grid)
    asked = ConfigRecord({"by": "server", "list": [0]})
    edges = ArrayRecord({"edges": Array(np.linspace(-3, 3, 7))})
    content = RecordDict({"bins": edges, "asked": asked})
    replies = grid.send_and_receive([Message(content, node, "query") for node in nodes])
    total = sum(reply.content["counts"]["n"].numpy() for reply in replies)

    ids = list(grid.push_messages([Message(content, node, "query.whoami") for node in nodes]))
    told = [dict(reply.content["told"]) for reply in pulled(grid, ids)]

    own = [RecordDict({"own": MetricRecord({"number": 8.0 + i})}) for i in range(len(nodes))]
    pairs = zip(nodes, own, strict=True)
    ids = list(grid.push_messages([Message(c, node, "train.half") for node, c in pairs]))
    numbers = [reply.content["own"]["number"] for reply in pulled(grid, ids)]

    unknown = grid.send_and_receive([Message(content, nodes[0], "query.unknown")])
    errors = [reply.has_error() for reply in unknown]
    result = {
        "total": total.tolist(),
        "told": sorted(told, key=lambda one: one["partition"]),
        "numbers": sorted(numbers),
        "errors": errors,
        "asked": dict(asked),
        "none": len(list(grid.pull_messages(ids))),
    }
    Path(context.run_config["output"]).write_text(json.dumps(result, sort_keys=True))
