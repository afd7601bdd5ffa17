"""client-state: a counter, a history and a personal vector live in the client's context."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Move a personal vector half way to the global one, and say how often that was done."""
    client = context.node_config["partition-id"]
    state = context.state
    if "personal" not in state:
        state["personal"] = ArrayRecord({"v": Array(np.full(3, float(client)))})
        state["count"] = MetricRecord({"calls": 0})
        state["history"] = ConfigRecord({"rounds": []})
    state["count"]["calls"] += 1
    state["history"]["rounds"] = [
        *state["history"]["rounds"],
        msg.content["config"]["server-round"],
    ]
    if client == 1 and state["count"]["calls"] == 2:
        raise RuntimeError("what is kept must not change where a client fails")
    vector = (state["personal"]["v"].numpy() + msg.content["arrays"]["v"].numpy()) / 2
    state["personal"] = ArrayRecord({"v": Array(vector)})
    metrics = MetricRecord(
        {
            "calls": state["count"]["calls"],
            "rounds": len(state["history"]["rounds"]),
            "num-examples": client + 1,
        }
    )
    content = RecordDict({"arrays": ArrayRecord({"v": Array(vector)}), "metrics": metrics})
    return Message(content, reply_to=msg)
