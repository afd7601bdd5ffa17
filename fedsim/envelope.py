"""Small contents as one record, for a SuperLink that many nodes talk to.

Flower moves every record, array and piece of an array by a request of its own, and requests are
what a SuperLink has no time for: an update of one array is nine, and packed three. What is large
stays as it is, so that Flower moves it in pieces, and once where many nodes are sent it.
"""

from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Packed

from fedsim.exact import InvalidUpdateError

__all__ = ["answering", "is_packed", "packed", "unpacked"]

_NAME, _CONTENT = "packed", "content"
_MOST_BYTES = 2**16  # of arrays: packed, a model that goes to many nodes is kept for each of them


def packed(content: RecordDict) -> RecordDict:
    """Return a content as one record of bytes, or as it is where its arrays are large."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    if sum(len(array.data) for array in arrays) > _MOST_BYTES:
        return content
    data = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return RecordDict({_NAME: ConfigRecord({_CONTENT: data})})


def unpacked(content: RecordDict) -> RecordDict:
    """Undo `packed`; what is not packed stays as it is.

    Raises `fedsim.exact.InvalidUpdateError` for bytes that `packed` does not write.
    """
    if not is_packed(content):
        return content
    try:
        data = content.config_records[_NAME][_CONTENT]
        if not isinstance(data, bytes):
            raise TypeError("it is no bytes")
        return recorddict_from_proto(Packed.FromString(data))
    except Exception as error:
        reason = f"a packed content cannot be read: {type(error).__name__}: {error}"
        raise InvalidUpdateError(reason) from error


def is_packed(content: RecordDict) -> bool:
    """Say whether a content is one that `packed` made."""
    return list(content) == [_NAME] and _NAME in content.config_records


def answering(message: Message, context: Context, call: Any) -> Message:
    """Be a mod of a ClientApp, the outermost: who is asked packed answers packed."""
    if not (message.has_content() and is_packed(message.content)):
        plain: Message = call(message, context)
        return plain
    message.content = unpacked(message.content)
    reply: Message = call(message, context)
    if reply.has_content():
        reply.content = packed(reply.content)
    return reply
