"""What of an experiment's updates travels: their codes, how many numbers a sum has, and what it is.

The same for messages and for blocks of clients: why both come to the same bits, and why the bytes
that are recorded are those of what was encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fedsim import coding, exact, ring
from fedsim.coding import Code, kind_of
from fedsim.core import ClientContext, Memo, Sum, Update
from fedsim.federation import Federation, entering, shapes_of, shared_by_all, width
from fedsim.messages import FLOAT_BYTES, Train

__all__ = [
    "Sent",
    "concluded",
    "payload_bytes",
    "send",
    "settled",
    "size_bytes",
    "told",
    "unsent",
    "whole",
]


@dataclass(frozen=True, slots=True)
class Sent:
    """A client's update as it enters the sum, its code if it travels as one, and what is kept."""

    update: Update
    code: Code | None
    kept: Memo


def told(federation: Federation) -> str:
    """Return what whoever decodes updates has to know; empty where they travel as they are.

    Where updates are clipped for privacy, or masked, they do: the sum is of whole numbers.
    """
    config = federation.config
    if ring.is_secure(config) or config.privacy.unit in ("user", "local"):
        return ""
    return coding.told(config.transform, shapes_of(federation), config.seed)


def send(
    federation: Federation, update: Update, order: Train, ctx: ClientContext, memo: Memo
) -> Sent:
    """Return what a client sends of its update; `memo`: what the transform kept.

    Raises `InvalidUpdateError` for an update that could not enter the sum, before anything is kept.
    """
    part = federation.config.transform
    kind = kind_of(part)
    if kind == "dense":
        return Sent(federation.encode(update, order.form, ctx), None, {})
    shared, code = shared_by_all(federation, order.round, order.model), None
    update = federation.adversaries.sent(update, ctx)  # what it likes, in the code of all
    if kind == "linear":
        vector, kept = coding.reduced(part, update.vector, memo, shared)
    else:
        made = coding.coded(part, update.vector, memo, shared, ctx)
        vector, kept = made.vector, made.memo
        code = made.code if told(federation) else None
    sent = entering(federation, replace(update, vector=vector), order.form, ctx)
    if order.form is not None:
        exact.check(sent, order.form)
    return Sent(sent, code, kept)


def concluded(federation: Federation, total: Sum, order: Train) -> Sum:
    """Return the sum of whole updates that a sum of what was sent stands for."""
    part = federation.config.transform
    if hasattr(part, "conclude"):
        found: Sum = part.conclude(total)
        return found
    if kind_of(part) != "linear":
        return total
    shared = shared_by_all(federation, order.round, order.model)
    return replace(total, vector=part.expand(total.vector, shared))


def whole(federation: Federation, updates: Sequence[Update], order: Train) -> list[Update]:
    """Return the updates that single ones of what was sent stand for."""
    part = federation.config.transform
    if kind_of(part) != "linear":
        return list(updates)
    shared = shared_by_all(federation, order.round, order.model)
    return [replace(update, vector=part.expand(update.vector, shared)) for update in updates]


def unsent(federation: Federation, vector: Tensor, order: Train) -> Tensor:
    """Return as a whole update what the server itself has trained by an order."""
    if federation.adapted is None:
        return vector
    part, shared = federation.config.transform, shared_by_all(federation, order.round, order.model)
    found: Tensor = part.expand(part.reduce(vector, shared), shared)
    return found


def settled(federation: Federation, model: Tensor, order: Train) -> Tensor:
    """Return the server's model after a round as the transform leaves it."""
    part = federation.config.transform
    if not hasattr(part, "settle"):
        return model
    found: Tensor = part.settle(model, shared_by_all(federation, order.round, order.model))
    return found


def size_bytes(federation: Federation, round: int = 1) -> int:
    """Return the bytes of an update of a round, or of a usual one, as it travels."""
    if told(federation):
        found: int = federation.config.transform.size_bytes(shapes_of(federation))
        return found
    return FLOAT_BYTES * width(federation, round)


def payload_bytes(federation: Federation, order: Train) -> int:
    """Return the bytes of an update and of the lanes beside it, before anybody has trained."""
    return size_bytes(federation, order.round) + FLOAT_BYTES * sum(order.lanes.values())
