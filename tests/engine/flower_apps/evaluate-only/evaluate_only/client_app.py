"""evaluate-only: clients test a model, none is trained."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from evaluate_only.task import Net, load_data
from evaluate_only.task import test as test_fn

app = ClientApp()


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Test the model on one's own data."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    loss, accuracy = test_fn(model, data)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(data[1])})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
