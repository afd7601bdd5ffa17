"""The messages of a secure sum's phases on Flower's message API, and where a client keeps its half.

Each phase is a message type of its own; its content is the protocol's bytes, opaque here. With
`masked` travels what `fedsim.messages.model_content` writes, and back comes the packed vector:
nothing else is sent in clear.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedsim.client_table import understood
from fedsim.exact import InvalidUpdateError

__all__ = [
    "KINDS",
    "MASKED",
    "ask_content",
    "read_answer",
    "read_ask",
    "reply_content",
    "session_of",
    "set_session",
]

#: phase -> message type
KINDS = {
    "keys": "query.sa_keys",
    "shares": "query.sa_shares",
    "masked": "train.sa_masked",
    "confirm": "query.sa_confirm",
    "unmask": "query.sa_unmask",
}
MASKED = KINDS["masked"]
_STATE = "fedsim.sa"


def ask_content(message: bytes, order: RecordDict | None = None) -> RecordDict:
    """Build what a client is sent in a phase; `order` is what to train, the same for everybody."""
    own = ConfigRecord({"message": message})
    return RecordDict({**(order or {}), "secure-sum": own})


def read_ask(content: RecordDict) -> bytes:
    """Return the protocol's bytes."""
    return bytes(content.config_records["secure-sum"]["message"])


def reply_content(message: bytes, vector: NDArray[np.uint8] | None = None) -> RecordDict:
    """Build a client's reply in a phase."""
    content = RecordDict({"secure-sum": ConfigRecord({"message": message})})
    if vector is not None:
        content["masked"] = ArrayRecord({"vector": Array(vector)})
    return content


def read_answer(content: RecordDict) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return what `reply_content` wrote.

    Raises `fedsim.exact.InvalidUpdateError` for anything else.
    """
    with understood("the secure sum's message"):
        message = content.config_records["secure-sum"]["message"]
        if not isinstance(message, bytes):
            raise InvalidUpdateError("the secure sum's message is no bytes")
        if "masked" not in content.array_records:
            return message, None
        vector = content.array_records["masked"]["vector"].numpy()
        if vector.dtype != np.uint8 or vector.ndim != 1:
            raise InvalidUpdateError("the masked vector is not packed")
        return message, vector


def session_of(state: RecordDict) -> bytes:
    """Return what a client keeps between phases and sessions, from its Flower `Context.state`."""
    record = state.config_records.get(_STATE)
    return b"" if record is None else bytes(record["session"])


def set_session(state: RecordDict, session: bytes) -> None:
    """Keep it there."""
    state[_STATE] = ConfigRecord({"session": session})
