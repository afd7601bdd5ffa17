"""faulty: one client raises, one sleeps beyond its message's time to live."""

import time

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context) -> Message:
    """Answer, or not."""
    client = context.node_config["partition-id"]
    if client == 1:
        raise ValueError("client 1 has no data")
    if client == 2 and msg.metadata.ttl < 60:
        time.sleep(600)
    return Message(RecordDict({"m": MetricRecord({"client": client})}), reply_to=msg)
