"""The Flower `ClientApp`: a message in, one client's training or evaluation, a message out.

The same app runs in process, in Ray workers, under Flower's own simulation and in a SuperNode. Who
it is comes from `node_config["partition-id"]`, the experiment from `run_config["experiment"]`, what
it remembers between rounds from `Context.state`.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim import messages
from fedsim.clients import local_only
from fedsim.core import ClientContext
from fedsim.federation import Federation, from_text

__all__ = ["app", "warm"]

app = ClientApp()


def warm(run_config: Mapping[str, Any]) -> None:
    """Load data and model, and what torch loads on its first training step.

    The first client of a worker would pay for it otherwise, and might be lost to its time limit.
    """
    from_text(str(run_config["experiment"]))
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.autograd.grad(parameter.sum(), parameter)


@app.query()
def identify(message: Message, context: Context) -> Message:
    """Say which client this node is: Flower's own node ids are random."""
    client = {"partition-id": int(context.node_config["partition-id"])}
    return Message(RecordDict({"client": ConfigRecord(client)}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's shard and reply with its update."""
    started = perf_counter()
    federation, order, client = _read(message, context)
    ctx = ClientContext(federation.client_seed(), order.round, client, order.lr_factor)
    task = federation.task(order.model, [federation.clients.train(client)])
    update, memo = federation.config.local.train(task, messages.memo_of(context.state), ctx)
    messages.set_memo(context.state, memo)
    update = federation.encode(update, order.form, ctx)
    seconds = perf_counter() - started
    content = messages.update_content(update, client=client, seconds=seconds)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model, or this client's own one, on its held-out examples."""
    started = perf_counter()
    federation, order, client = _read(message, context)
    examples = federation.clients.held_out(client)
    model, parts = order.model, {"federated": examples}
    if federation.config.mode == "local-only":
        model = local_only.personal_model(messages.memo_of(context.state), model)
        parts["test"] = federation.clients.test()
    statistics = {
        f"{part}/{name}": value
        for part, chosen in parts.items()
        for name, value in federation.evaluate(model, chosen).items()
    }
    content = messages.evaluation_content(
        statistics, client=client, examples=len(examples.y), seconds=perf_counter() - started
    )
    return Message(content, reply_to=message)


def _read(message: Message, context: Context) -> tuple[Federation, messages.Train, int]:
    """Return the experiment, what is asked, and which client this is."""
    federation = from_text(str(context.run_config["experiment"]))
    order = messages.read_instruction(message.content)
    return federation, order, int(context.node_config["partition-id"])
