"""The messages by which clients agree on a cut, and what a client keeps of it.

A level's sum goes through the phases of `fedsim.secure_messages`; with phase `masked` travels the
cut as it is so far, and back come the client's counts. The finished cut goes to every client in a
message of its own; a client that lacks it where it is to train says so, and is sent it again.
"""

from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

__all__ = [
    "COUNTS",
    "FROZEN",
    "KINDS",
    "MASKED",
    "Kept",
    "cut_content",
    "is_missing",
    "keep",
    "kept_of",
    "missing_content",
    "read_cut",
]

#: Message types: a level's counts under masks, in the clear (`ideal`), and the finished cut.
MASKED, COUNTS, FROZEN = "query.cut_masked", "query.cut_counts", "query.cut_frozen"
KINDS = (MASKED, COUNTS, FROZEN)

_STATE, _RECORD = "fedsim.cut", "cut"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a client remembers: the cut it counted by last, the finished one, is it late for it."""

    last: bytes = b""
    frozen: bytes = b""
    is_late: bool = False


def cut_content(cut: bytes) -> RecordDict:
    """Build what carries a cut, as `Cut.encode` writes it; the same object for all clients."""
    return RecordDict({_RECORD: ConfigRecord({"cut": cut})})


def read_cut(content: RecordDict) -> bytes:
    """Return the cut that a message carries."""
    return bytes(content.config_records[_RECORD]["cut"])


def missing_content() -> RecordDict:
    """Build the reply of a client that is to train and has no cut."""
    return RecordDict({_RECORD: ConfigRecord({"is-missing": True})})


def is_missing(content: RecordDict) -> bool:
    """Say whether a reply is that of a client without the cut."""
    record = content.config_records.get(_RECORD)
    return record is not None and bool(record.get("is-missing", False))


def kept_of(state: RecordDict) -> Kept:
    """Return what a client remembers, from its Flower `Context.state`."""
    record = state.config_records.get(_STATE)
    if record is None:
        return Kept()
    return Kept(bytes(record["last"]), bytes(record["frozen"]), bool(record["is-late"]))


def keep(state: RecordDict, kept: Kept) -> None:
    """Remember it there."""
    record = {"last": kept.last, "frozen": kept.frozen, "is-late": kept.is_late}
    state[_STATE] = ConfigRecord(record)
