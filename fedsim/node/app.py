"""The guard around a Flower `ClientApp`: what a SuperNode with a folder of its own does first."""

import logging
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedsim import cut_messages, messages, secure_messages
from fedsim.clients._quiet import quiet
from fedsim.node import guard
from fedsim.node.approval import SIGNATURE, TEXT
from fedsim.node.folder import NODE_FOLDER
from fedsim.node.memory import FIRST_STRETCH, Memory
from fedsim.node.sums import Sums

__all__ = ["guarded", "has_folder"]

_NUMBER_BYTES = 8
_SUMS = {*secure_messages.KINDS.values(), cut_messages.MASKED}


def has_folder(context: Context) -> bool:
    """Say whether a node has a folder, and so a policy: it then decides by itself."""
    return NODE_FOLDER in context.node_config


def guarded(
    message: Message, context: Context, call: Callable[[Message, Context], Message]
) -> Message:
    """Answer a message if the node's policy, signature and ledger allow it.

    Raises `RefusedError` or `BudgetExceededError` otherwise, and an error without its text where
    the answer fails: Flower sends both to the server.
    """
    request = _request(message, context)
    folder = Path(str(context.node_config[NODE_FOLDER]))
    admitted = guard.admit(folder, request, context.node_config)
    own = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=dict(admitted.node_config),
        state=context.state,
        run_config={"experiment": admitted.text},  # nothing else that the server says
    )
    try:
        with quiet():
            answer = partial(_remembering, call, _memory(admitted, context), request)
            if request.kind in _SUMS:
                answer = partial(_summing, answer, _sums(admitted, request))
            reply = _kept_here(answer, message, own)
    except BaseException as error:
        guard.failed(admitted, str(error) or type(error).__name__)
        raise
    sent = 0 if reply.has_error() else _size(reply.content)
    guard.answered(admitted, sent)
    return reply


def _memory(admitted: guard.Admitted, context: Context) -> Memory:
    """Return what is remembered of a run, by Flower's number of the stretch that it began with."""
    run = str(context.run_config.get(FIRST_STRETCH) or context.run_id)
    return Memory.of(admitted.folder.memory, admitted.record.experiment, run)


def _remembering(
    call: Callable[[Message, Context], Message],
    memory: Memory,
    request: guard.Request,
    message: Message,
    context: Context,
) -> Message:
    """Answer with what the client remembers from the node's disk, and keep it there alone."""
    if request.order is None:
        return call(message, context)
    number, is_training = request.order.round, request.kind != messages.EVALUATE
    messages.set_memo(context.state, memory.before(number if is_training else number + 1))
    reply = call(message, context)
    if is_training and not reply.has_error():
        memory.keep(number, messages.memo_of(context.state))
    messages.set_memo(context.state, {})
    return reply


def _sums(admitted: guard.Admitted, request: guard.Request) -> Sums:
    return Sums.of(admitted.folder.ledger, admitted.record.experiment, request.client)


def _summing(
    call: Callable[[Message, Context], Message], sums: Sums, message: Message, context: Context
) -> Message:
    """Answer a phase of a secure sum by all the sums that this node ever helped to open."""

    def ask(state: bytes) -> tuple[bytes, Message]:
        secure_messages.set_session(context.state, state)
        reply = call(message, context)
        return secure_messages.session_of(context.state), reply

    return sums.answer(secure_messages.session_of(context.state), ask)


def _kept_here(
    call: Callable[[Message, Context], Message], message: Message, context: Context
) -> Message:
    try:
        return call(message, context)
    except Exception:
        logging.getLogger(__name__).error("%s", traceback.format_exc())  # the node's, not sent
        raise


def _request(message: Message, context: Context) -> guard.Request:
    config, node = context.run_config, context.node_config
    return guard.Request(
        kind=str(message.metadata.message_type),
        run=str(context.run_id),
        text=str(config.get(TEXT) or ""),
        signature=str(config.get(SIGNATURE) or ""),
        client=int(node["partition-id"]),
        clients=int(node["num-partitions"]) if "num-partitions" in node else None,
        order=_order(message),
    )


def _order(message: Message) -> messages.Train | None:
    """Return what a message says to work on; None where it says nothing that can be read."""
    content = message.content if message.has_content() else RecordDict()
    try:
        return messages.read_instruction(content) if "model" in content.array_records else None
    except Exception:  # of whatever a server may send: the guard refuses what lacks an order
        return None


def _size(content: RecordDict) -> int:
    """Return the bytes of the values in a reply, by our own count: Flower's fails for no values."""
    arrays = (array for record in content.array_records.values() for array in record.values())
    others = [*content.config_records.values(), *content.metric_records.values()]
    values = [value for record in others for value in record.values()]
    return sum(len(array.data) for array in arrays) + sum(map(_bytes_of, values))


def _bytes_of(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_bytes_of, value))
    if isinstance(value, bytes):
        return len(value)
    return len(value.encode()) if isinstance(value, str) else _NUMBER_BYTES
