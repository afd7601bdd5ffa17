"""private-strategy: Flower's mod clips what clients send."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod

app = ClientApp(mods=[fixedclipping_mod])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Move, the further the larger one's number."""
    client = context.node_config["partition-id"]
    vector = msg.content["arrays"]["v"].numpy() + np.linspace(0, client + 1, 5)
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord({"v": Array(vector)}), "metrics": metrics})
    return Message(content, reply_to=msg)
