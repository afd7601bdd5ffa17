"""A client's half of agreeing on a cut: what it counts by, what it accepts, what it releases.

The server computes every cut from sums that it alone sees, so a client cannot recompute them. It
checks what it can: that the cut is one of its own schema, with the protection of the experiment it
has agreed to; that the first level is the one that every client begins with; that each further one
goes on from the one it counted by last; that all clients of a sum count by the same (their session
is signed over its hash); and that it is never given a second finished cut, in this run or, where
the node keeps pins, in any.
"""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from fedsim import agreement, cut_messages
from fedsim.anonymize import shared
from fedsim.anonymize.shared import Cut
from fedsim.anonymized import SharedCut
from fedsim.clients import _pins
from fedsim.clients._quiet import LostClientError
from fedsim.cut_messages import Kept
from fedsim.errors import DataError
from fedsim.federation import Federation

__all__ = ["NoCutError", "asking_for_it", "counts", "freeze", "with_kept"]

#: Levels that an unlucky client has not counted: the one it was lost in, and the end it brought.
_UNCOUNTED = 2


class NoCutError(Exception):
    """Whoever is to train has no cut yet, and is to be sent one."""


def asking_for_it(message: Message, context: Context, call: Any) -> Message:
    """Answer by asking for the cut, where a client has none: a mod of the `ClientApp`."""
    try:
        reply: Message = call(message, context)
    except NoCutError:
        return Message(cut_messages.missing_content(), reply_to=message)
    return reply


def counts(
    federation: Federation, content: RecordDict, context: Context, client: int
) -> tuple[NDArray[np.uint32], bytes]:
    """Return what a client adds to the sum of a level, and the hash of the cut that it counts by.

    What it counted by is kept before the answer leaves. Raises `LostClientError` for a cut that is
    not the next one of this agreement.
    """
    clients, kept = federation.sharing, cut_messages.kept_of(context.state)
    if kept.frozen:
        raise LostClientError("this client has its cut, and counts by no other one")
    encoded = cut_messages.read_cut(content)
    cut = _read(encoded)
    _must_be_ours(cut, clients)
    if kept.last:
        if encoded != kept.last and not _is_next(cut, _read(kept.last)):
            raise LostClientError("the cut does not go on from the one that this client counted by")
    elif encoded != clients.began:
        raise LostClientError(
            "a level in the middle of an agreement that this client has not been in"
        )
    vector = agreement.vector(cut, clients.counted(client))
    cut_messages.keep(context.state, Kept(last=encoded))
    return vector, agreement.content_of(encoded)


def freeze(federation: Federation, message: Message, context: Context, client: int) -> Message:
    """Keep the finished cut, and say so. Raises `LostClientError` for one that is refused."""
    clients, kept = federation.sharing, cut_messages.kept_of(context.state)
    encoded = cut_messages.read_cut(message.content)
    if kept.frozen and encoded != kept.frozen:
        raise LostClientError(
            "a second cut of the same rows, beside the first, would narrow people down"
        )
    if not kept.frozen:
        cut = _read(encoded)
        _must_be_ours(cut, clients)
        if cut.open:
            raise LostClientError("the cut is not finished")
        is_late = _is_late(cut, kept)
        mine = clients.by_cut(cut, (client,) if is_late else ())
        _pins.pin(mine, client, context.node_config)
        cut_messages.keep(context.state, Kept(frozen=encoded, is_late=is_late))
    own = {"partition-id": client, "sha256": _read(encoded).fingerprint()}
    return Message(RecordDict({"cut": ConfigRecord(own)}), reply_to=message)


def with_kept(federation: Federation, context: Context, client: int) -> Federation:
    """Return the federation by the cut that a client keeps; as it is, where it needs none.

    Raises `NoCutError` where it needs one that it has not been sent.
    """
    if not federation.awaits_cut:
        return federation
    kept = cut_messages.kept_of(context.state)
    if not kept.frozen:
        raise NoCutError
    cut = _read(kept.frozen)
    late = (client,) if kept.is_late else ()
    return replace(federation, clients=federation.sharing.by_cut(cut, late))


def _is_next(cut: Cut, before: Cut) -> bool:
    """Say whether a cut is one level beyond another, or knows sensitive values' shares besides."""
    is_first = bool(cut.references) and not before.references
    return cut.sums == before.sums + 1 and shared.extends(cut, before) == (0 if is_first else 1)


def _is_late(cut: Cut, kept: Kept) -> bool:
    """Say whether this client's rows may not be in the sums that a cut was made by.

    Raises `LostClientError` for a cut that is not of the agreement that this client was in.
    """
    if not kept.last:
        return True
    before = _read(kept.last)
    more = shared.extends(cut, before)
    if more < 0:
        raise LostClientError("the finished cut is not the one that this client counted for")
    return more > _UNCOUNTED or cut.sums > before.sums + 1


def _must_be_ours(cut: Cut, clients: SharedCut) -> None:
    """Raise `LostClientError` for a cut of another schema, or with another protection."""
    own = _read(clients.began)
    if name := shared.differs(cut, own):
        raise LostClientError(
            f"{name} of the cut is {getattr(cut, name)}, not {getattr(own, name)} as in the "
            "experiment"
        )


@lru_cache(maxsize=4)
def _read(encoded: bytes) -> Cut:
    try:
        return shared.cut_from_dict(json.loads(encoded))
    except (ValueError, RecursionError, DataError) as error:
        raise LostClientError("what the server sent is no cut") from error
