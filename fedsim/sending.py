"""What of an experiment's updates travels: their codes, how many numbers a sum has, and what it is.

The same for messages and for blocks of clients, one after another or at once: why all come to the
same bits, or but for rounding, and why the bytes that are recorded are those of what was encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedsim import coding, exact, ring
from fedsim.coding import Code, kind_of
from fedsim.core import ClientContext, Memo, Sum, Update
from fedsim.federation import Federation, entering, shapes_of, shared_by_all, width
from fedsim.messages import FLOAT_BYTES, Train
from fedsim.vectorized.change import Changes, encoded, in_fewer, of_rows

__all__ = [
    "Sent",
    "Together",
    "can_together",
    "concluded",
    "payload_bytes",
    "send",
    "settled",
    "size_bytes",
    "together",
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


@dataclass(frozen=True, slots=True)
class Together:
    """Several clients' updates as they enter the sum: `Sent`, of each.

    `whole`: before they were clipped or randomized. `is_finite` [clients]: whose could be sent.
    """

    whole: Changes
    changes: Changes
    is_finite: Tensor
    sizes: Sequence[int]
    kept: Sequence[Memo]


def told(federation: Federation) -> str:
    """Return what whoever decodes updates has to know; empty where they travel as they are.

    Where updates are clipped for privacy, or masked, they do: the sum is of whole numbers.
    """
    if not _are_codes(federation):
        return ""
    config = federation.config
    return coding.told(config.transform, shapes_of(federation), config.seed)


def _are_codes(federation: Federation) -> bool:
    """Say whether updates travel as codes."""
    config = federation.config
    are_numbers = ring.is_secure(config) or config.privacy.unit in ("user", "local")
    return not are_numbers and kind_of(config.transform) == "coded"


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
        code = made.code if _are_codes(federation) else None
    sent = entering(federation, replace(update, vector=vector), order.form, ctx)
    if order.form is not None:
        exact.check(sent, order.form)
    return Sent(sent, code, kept)


def can_together(federation: Federation) -> bool:
    """Say whether `together` knows what clients send: all but coders that have it not."""
    part = federation.config.transform
    return kind_of(part) != "coded" or hasattr(part, "received")


def together(
    federation: Federation,
    changes: Changes,
    order: Train,
    contexts: Sequence[ClientContext],
    memos: Sequence[Memo],
) -> Together:
    """Do for the clients of a block what `send` does for one, where their tensors are.

    Whoever is not finite is told in `is_finite`, what else cannot enter the sum is not looked for.
    """
    part, count = federation.config.transform, len(contexts)
    whole, is_finite = changes, torch.ones(count, dtype=torch.bool, device=federation.device)
    sizes: Sequence[int] = [size_bytes(federation, order.round)] * count
    kept: Sequence[Memo] = [{}] * count
    shared = partial(shared_by_all, federation, order.round, order.model)
    if kind_of(part) == "coded":
        rows = changes.vectors()
        found, is_finite = coding.coded_together(part, rows, memos, shared(), contexts)
        whole, kept = of_rows(found.vectors), found.memos
        sizes = found.sizes if _are_codes(federation) else sizes
    elif coding.has_feedback(part):
        rows = changes.vectors()
        found, is_finite = coding.reduced_together(part, rows, memos, shared())
        whole, kept = of_rows(found.vectors), found.memos
    elif kind_of(part) == "linear":
        whole = in_fewer(changes, partial(part.reduce, shared=shared()))
    entering = encoded(whole, federation.transform(order.form, contexts))
    return Together(whole, entering, is_finite, sizes, kept)


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
    if _are_codes(federation):
        found: int = federation.config.transform.size_bytes(shapes_of(federation))
        return found
    return FLOAT_BYTES * width(federation, round)


def payload_bytes(federation: Federation, order: Train) -> int:
    """Return the bytes of an update and of the lanes beside it, before anybody has trained."""
    return size_bytes(federation, order.round) + FLOAT_BYTES * sum(order.lanes.values())
