"""own-strategy: clients that report two arrays records and a config."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Report a step and how sure the client is."""
    client = context.node_config["partition-id"]
    vector = msg.content["arrays"]["v"].numpy() - msg.content["config"]["eta"] * (client + 1)
    arrays = ArrayRecord({"v": Array(vector)})
    metrics = MetricRecord({"num-examples": 10 + client, "losses": [0.5 * client, 1.0]})
    told = ConfigRecord({"name": f"client {client}", "sure": client % 2 == 0})
    content = RecordDict({"arrays": arrays, "metrics": metrics, "told": told})
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Report the distance to one's own number."""
    client = context.node_config["partition-id"]
    distance = float(np.abs(msg.content["arrays"]["v"].numpy() - client).mean())
    metrics = MetricRecord({"num-examples": 10 + client, "distance": distance})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
