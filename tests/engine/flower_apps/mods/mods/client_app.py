"""mods: Flower's own and two of the app's, on the app and on one of its functions."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import arrays_size_mod, message_size_mod


def doubled(msg: Message, context: Context, call_next) -> Message:
    """Double what comes back."""
    reply = call_next(msg, context)
    reply.content["arrays"]["v"] = Array(reply.content["arrays"]["v"].numpy() * 2)
    return reply


def counted(msg: Message, context: Context, call_next) -> Message:
    """Count calls in the state, before and after."""
    calls = context.state.metric_records.get("calls", MetricRecord({"n": 0}))
    context.state["calls"] = MetricRecord({"n": calls["n"] + 1})
    reply = call_next(msg, context)
    reply.content["metrics"]["calls"] = context.state["calls"]["n"]
    return reply


app = ClientApp(mods=[message_size_mod, counted])


@app.train(mods=[arrays_size_mod, doubled])
def train(msg: Message, context: Context) -> Message:
    """Add one's number."""
    client = context.node_config["partition-id"]
    vector = msg.content["arrays"]["v"].numpy() + client
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": ArrayRecord({"v": Array(vector)}), "metrics": metrics})
    return Message(content, reply_to=msg)
