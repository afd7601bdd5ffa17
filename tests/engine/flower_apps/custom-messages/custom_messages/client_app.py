"""custom-messages: queries of several kinds, contents of all record types."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def histogram(msg: Message, context: Context) -> Message:
    """Count values in bins."""
    client = context.node_config["partition-id"]
    values = np.random.default_rng(client).normal(size=50)
    counts, _ = np.histogram(values, bins=msg.content["bins"]["edges"].numpy())
    # Whoever changes its instruction changes nobody else's.
    msg.content["asked"]["by"] = "client"
    msg.content["asked"]["list"].append(client)
    return Message(RecordDict({"counts": ArrayRecord({"n": Array(counts)})}), reply_to=msg)


@app.query("whoami")
def who(msg: Message, context: Context) -> Message:
    """Say what was asked and who answers."""
    told = ConfigRecord(
        {
            "partition": context.node_config["partition-id"],
            "of": context.node_config["num-partitions"],
            "asked-by": msg.content["asked"]["by"],
            "seen": list(msg.content["asked"]["list"]),
            "scale": context.run_config["scale"],
            "kind": msg.metadata.message_type,
        }
    )
    return Message(RecordDict({"told": told, "m": MetricRecord({"one": 1})}), reply_to=msg)


@app.train("half")
def half(msg: Message, context: Context) -> Message:
    """Halve a number of one's own."""
    number = msg.content["own"]["number"] * context.run_config["scale"] / 4
    return Message(RecordDict({"own": MetricRecord({"number": number})}), reply_to=msg)
