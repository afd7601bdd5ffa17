"""many-strategies: clients of different sizes that move to their own vectors."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Move some of the way; one client is far off."""
    client = context.node_config["partition-id"]
    own = np.arange(6.0) * (client + 1) * (-40 if client == 2 else 1)
    vector = msg.content["arrays"]["v"].numpy()
    moved = vector + 0.3 * (own - vector)
    metrics = MetricRecord({"num-examples": 2 + client, "loss": float(abs(own - vector).mean())})
    content = RecordDict({"arrays": ArrayRecord({"v": Array(moved)}), "metrics": metrics})
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Return how far the vector is from one's own."""
    client = context.node_config["partition-id"]
    off = float(abs(msg.content["arrays"]["v"].numpy() - client).mean())
    metrics = MetricRecord({"num-examples": 2 + client, "off": off})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
