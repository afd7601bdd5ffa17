"""The Flower `ClientApp`: a message in, one client's training or evaluation, a message out.

The same app runs in process, in Ray workers, under Flower's own simulation and in a SuperNode. Who
it is comes from `node_config["partition-id"]`, the experiment from `run_config["experiment"]`, what
it remembers between rounds from `Context.state`.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedsim import agreement, coding, messages, ring, secure_messages, sending
from fedsim.clients import _ckks, _cut
from fedsim.clients._quiet import LostClientError, quiet
from fedsim.clients._secure_sum import Asked, must_not_mask, session_of
from fedsim.core import ClientContext
from fedsim.envelope import answering
from fedsim.errors import DataError
from fedsim.exact import InvalidUpdateError
from fedsim.federation import Federation, doing, from_text, test_set
from fedsim.secagg.parameters import CONTENT_BYTES

__all__ = ["app", "warm"]

app = ClientApp(mods=[answering, _cut.asking_for_it])


def warm(run_config: Mapping[str, Any]) -> None:
    """Load data and model, and what torch loads on its first training step.

    The first client of a worker would pay for it otherwise, and might be lost to its time limit.
    Raises `DataError` where this machine has other data than the run began with.
    """
    federation = from_text(str(run_config["experiment"]))
    found, wanted = federation.clients.meta.sha256, run_config.get("data-sha256")
    if wanted and found != wanted:
        raise DataError(f"has other data (sha256 {found[:12]}) than the run ({str(wanted)[:12]})")
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
    must_not_mask(federation.config, context.node_config)
    _ckks.must_encrypt(federation.config, context.node_config)
    if ring.is_secure(federation.config):
        with quiet():
            vector = _vector(federation, order, client, context)
        return Message(messages.ring_content(vector, [client]), reply_to=message)
    sent, _ = _trained(federation, order, client, context)
    seconds = perf_counter() - started
    content = messages.update_content(sent.update, client=client, seconds=seconds, code=sent.code)
    return Message(content, reply_to=message)


@app.query("sa_keys")
def keys(message: Message, context: Context) -> Message:
    """Begin a session of the secure sum: say this client's keys."""
    return _phase(message, context)


@app.query("sa_shares")
def shares(message: Message, context: Context) -> Message:
    """Share what opens this client's masks among its neighbours, encrypted for each."""
    return _phase(message, context)


@app.train("sa_masked")
def masked(message: Message, context: Context) -> Message:
    """Train on this client's shard and reply with its update under masks."""
    federation, order, client = _read(message, context)
    with quiet():
        vector = _vector(federation, order, client, context)
    return _phase(message, context, vector, messages.hash_of(order))


@app.query("sa_confirm")
def confirm(message: Message, context: Context) -> Message:
    """Sign whose vectors are in the sum."""
    return _phase(message, context)


@app.query("sa_unmask")
def unmask(message: Message, context: Context) -> Message:
    """Hand out what opens the sum, once."""
    return _phase(message, context)


@app.query("cut_masked")
def count(message: Message, context: Context) -> Message:
    """Count this client's records by a cut that all agree on, and reply under masks."""
    federation, client = _who(context)
    with quiet():
        vector, made_by = _cut.counts(federation, message.content, context, client)
    return _phase(message, context, vector, made_by)


@app.query("cut_counts")
def count_in_the_clear(message: Message, context: Context) -> Message:
    """Count as `count` does, where the secure sum is simulated."""
    federation, client = _who(context)
    must_not_mask(federation.config, context.node_config)
    agreement.refuse_open(federation.config.secure_sum)
    with quiet():
        vector, _ = _cut.counts(federation, message.content, context, client)
    return Message(messages.ring_content(vector, [client]), reply_to=message)


@app.query("cut_frozen")
def freeze(message: Message, context: Context) -> Message:
    """Keep the cut that was agreed on, and no other one after it."""
    federation, client = _who(context)
    with quiet():
        return _cut.freeze(federation, message, context, client)


@app.train("ckks_encrypted")
def encrypted(message: Message, context: Context) -> Message:
    """Train on this client's shard and reply with its update encrypted by CKKS."""
    federation, order, client = _read(message, context)
    key = _ckks.key_of(federation.config, context.run_config, context.node_config, client)
    with quiet():
        vector = _vector(federation, order, client, context)
        content = _ckks.encrypted(federation.config, key, vector)
    return Message(content, reply_to=message)


@app.query("ckks_open")
def open_sum(message: Message, context: Context) -> Message:
    """Open a sum of encrypted updates, once, and reply with its numbers."""
    config = from_text(str(context.run_config["experiment"])).config
    client = int(context.node_config["partition-id"])
    key = _ckks.key_of(config, context.run_config, context.node_config, client)
    content = _ckks.opened(config, key, client, message.content, context.state)
    return Message(content, reply_to=message)


def _phase(
    message: Message,
    context: Context,
    vector: NDArray[np.uint32] | None = None,
    made_by: bytes = bytes(CONTENT_BYTES),
) -> Message:
    """Answer a phase of the secure sum; what is to be kept is kept before the answer leaves."""
    federation = from_text(str(context.run_config["experiment"]))
    _ckks.must_encrypt(federation.config, context.node_config)
    client = int(context.node_config["partition-id"])
    session = session_of(federation, context.run_config, context.node_config, client)
    before = secure_messages.session_of(context.state)
    asked = Asked(session, before, secure_messages.read_ask(message.content))
    kept, content = asked.answer(vector, made_by)
    secure_messages.set_session(context.state, kept)
    return Message(content, reply_to=message)


def _vector(
    federation: Federation, order: messages.Train, client: int, context: Context
) -> NDArray[np.uint32]:
    """Train, and return what this client hands to the secure sum."""
    if order.form is None or order.form.bits is None:
        raise InvalidUpdateError("the server asks for an update outside of the secure sum")
    sent, ctx = _trained(federation, order, client, context)
    return ring.vector(federation, sent.update, ring.layout(federation, order.form), ctx)


def _trained(
    federation: Federation, order: messages.Train, client: int, context: Context
) -> tuple[sending.Sent, ClientContext]:
    """Return the update as it enters the sum; what is to be remembered is kept."""
    ctx = ClientContext(federation.client_seed(), order.round, client, order.lr_factor)
    shard = federation.clients.train(client)
    task = federation.task(order.model, [shard], extras=order.extras, round=order.round)
    own, kept = coding.apart(messages.memo_of(context.state))
    update, memo = federation.config.local.train(task, own, ctx)
    sent = sending.send(federation, update, order, ctx, kept)
    messages.set_memo(context.state, coding.joined(memo, sent.kept))
    return sent, ctx


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model, or this client's own one, on its held-out examples."""
    started = perf_counter()
    federation, order, client = _read(message, context)
    if ring.is_secure(federation.config):
        raise LostClientError("under a secure sum no client tells how the model does on its data")
    must_not_mask(federation.config, context.node_config)
    _ckks.must_encrypt(federation.config, context.node_config)
    examples = federation.clients.held_out(client)
    parts = {"federated": examples}
    if federation.config.mode == "local-only":
        parts["test"] = test_set(federation)
    used = _used(federation, order, client, context)
    statistics = {
        f"{part}/{name}": value
        for part, chosen in parts.items()
        for name, value in federation.evaluate(used, chosen).items()
    }
    content = messages.evaluation_content(
        statistics, client=client, examples=len(examples.y), seconds=perf_counter() - started
    )
    return Message(content, reply_to=message)


def _used(
    federation: Federation, order: messages.Train, client: int, context: Context
) -> torch.Tensor | torch.nn.Module:
    """Return the model that this client would use: the global one, or one of its own."""
    local, (memo, _) = federation.config.local, coding.apart(messages.memo_of(context.state))
    if hasattr(local, "adapted"):
        ctx = ClientContext(federation.client_seed(), order.round, client, order.lr_factor)
        task = federation.task(order.model, [federation.clients.train(client)], extras=order.extras)
        adapted: torch.nn.Module = local.adapted(task, memo, ctx)
        return adapted
    own: torch.Tensor = order.model
    return local.personal(memo, own) if hasattr(local, "personal") else own


def _read(message: Message, context: Context) -> tuple[Federation, messages.Train, int]:
    """Return the experiment, what is asked, and which client this is."""
    federation, client = _who(context)
    order = messages.read_instruction(message.content)
    federation = _cut.with_kept(federation, context, client)
    return doing(federation, order.epochs), order, client


def _who(context: Context) -> tuple[Federation, int]:
    """Return the experiment, and which client this is."""
    federation = from_text(str(context.run_config["experiment"]))
    return federation, int(context.node_config["partition-id"])
