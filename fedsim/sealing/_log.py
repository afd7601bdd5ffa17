"""A sealed log: lines are appended as they come, and none can be cut out, moved or changed.

    segment, segment, ...   segment: "H" | head of an envelope, then records, the first one empty
                            record: "R" | sealed length (4 + 16) | sealed line

Each time a log is opened for writing a segment begins, with a data key of its own: after a crash
nothing has to be known about which nonces were used. Every record authenticates a hash over
everything before it, and a segment's head says that hash too. So only the end can be missing. What
a crash tore off in the middle of a record is dropped when the next segment begins, and that segment
says how many bytes. A log that was cut off after a whole line reads as a shorter log: that no file
can tell by itself (Schneier and Kelsey, "Secure Audit Logs to Support Computer Forensics", 1999,
section 5: it takes a second machine).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from fedsim.crypto import TAG_BYTES, CryptoError, open_sealed, seal
from fedsim.errors import SealingError
from fedsim.sealing._envelope import (
    MAGIC,
    SLOT_BYTES,
    Head,
    Label,
    new_head,
    nonce,
    read_head,
)
from fedsim.sealing._keys import StorageKeys

__all__ = ["LogText", "SealedLog", "open_log", "read_log", "segment_heads"]

_HEADER_BYTES = 1024  # of every segment: what is shorter was torn off, never written so
_HEAD_BYTES = 1 + len(MAGIC) + 4 + _HEADER_BYTES + SLOT_BYTES
_LENGTH_BYTES = 4 + TAG_BYTES
_START = bytes(32)


@dataclass(frozen=True, slots=True)
class LogText:
    """What a log says. `torn_bytes`: of a last line that a crash cut short; it is not in `text`.

    `dropped_bytes`: the same, of earlier crashes, after which the log was continued.
    """

    text: str
    torn_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(slots=True)
class SealedLog:
    """A log being written, by one process at a time.

    `dropped_bytes`: of a torn last line that opening it left out.
    """

    file: BinaryIO = field(repr=False)
    data_key: bytes = field(repr=False)
    prefix: bytes
    chain: bytes
    dropped_bytes: int = 0
    number: int = 0

    def append(self, text: str) -> None:
        """Append text; it is with the system when this returns. Raise `OSError` if that fails."""
        self.file.write(self.next_record(text))
        self.file.flush()

    def next_record(self, text: str) -> bytes:
        """Return the next record; it counts as written: its nonce is not used again."""
        content = text.encode("utf-8", "replace")
        size = len(content).to_bytes(4, "big")
        length = seal(self.data_key, nonce(self.prefix, self.number, False), size, self.chain)
        line = seal(self.data_key, nonce(self.prefix, self.number, True), content, self.chain)
        self.number, self.chain = self.number + 1, _linked(self.chain, line)
        return b"R" + length + line

    def close(self) -> None:
        """End writing."""
        self.file.close()


def open_log(path: Path, label: Label, keys: StorageKeys) -> SealedLog:
    """Open a log to append to, new or continued; a torn last line is dropped, and that is said.

    Raise `SealingError` for a log that was changed: nothing is appended to it then; `OSError` where
    it cannot be written.
    """
    file = path.open("a+b")
    try:
        file.seek(0)
        content = file.read()
        found = list(_records(content, label, keys, path))
        end, chain = (found[-1].end, found[-1].chain) if found else (0, _START)
        file.truncate(end)
        segments = sum(1 for record in found if record.head)
        place: dict[str, str | int] = {
            "segment": segments,
            "previous": chain.hex(),
            "dropped": len(content) - end,
        }
        own = Label(label.purpose, {**label.facts, **place})
        head, data_key = new_head(own, keys, padded_to=_HEADER_BYTES)
        start = _linked(chain, head.public)
        log = SealedLog(file, data_key, head.prefix, start, len(content) - end)
        # The first record makes the head authentic, so it is there from the beginning.
        file.write(b"H" + head.encode() + log.next_record(""))
        file.flush()
    except BaseException:
        file.close()
        raise
    return log


def read_log(path: Path, expected: Label, keys: StorageKeys) -> LogText:
    """Return what a log says; raise `SealingError` where a line was changed, moved or is missing.

    Raise `OSError` where it cannot be read, `SetupError` for a storage key that is not there.
    """
    content = path.read_bytes()
    found = list(_records(content, expected, keys, path))
    end = found[-1].end if found else 0
    dropped = sum(int(r.head.label.facts.get("dropped", 0)) for r in found if r.head)
    return LogText("".join(r.line for r in found), len(content) - end, dropped)


def segment_heads(content: bytes, keys: StorageKeys, name: object) -> list[tuple[int, Head]]:
    """Return where the heads of a log's segments begin, and the heads; raise as `read_log` does."""
    return [(r.start + 1, r.head) for r in _records(content, None, keys, name) if r.head]


@dataclass(frozen=True, slots=True)
class _Record:
    """An authentic record from `start` to `end`, and the head before it if it is a segment's first.

    `chain`: the hash over the log up to here.
    """

    line: str
    start: int
    end: int
    chain: bytes
    head: Head | None


def _records(
    content: bytes, expected: Label | None, keys: StorageKeys, name: object
) -> Iterator[_Record]:
    """Yield records up to the end or to what a crash tore off; raise `SealingError` for changes."""
    start, chain, segments, number = 0, _START, 0, 0
    head: Head | None = None
    data_key, rest = b"", memoryview(content)
    # Zeros are what a loss of power leaves where a file had grown before its content was there.
    while start < len(content) and (content[start] or content[start:].strip(b"\0")):
        begins_segment = content[start : start + 1] == b"H"
        at = start
        if begins_segment:
            head = _head(content[start + 1 : start + _HEAD_BYTES], name)
            if head is None:
                return
            data_key = head.data_key(keys, name)
            _must_follow(head.label, expected, segments, chain, name)
            chain, number, at = _linked(chain, head.public), 0, start + _HEAD_BYTES
        if head is None:
            raise SealingError(f"{name} is not a sealed log")
        line = _line(rest[at:], head.prefix, number, data_key, chain, f"{name}, byte {at}")
        if line is None:
            return
        text, size = line
        sealed = content[at + 1 + _LENGTH_BYTES : at + size]
        chain, number, segments = _linked(chain, sealed), number + 1, segments + begins_segment
        yield _Record(text, start, at + size, chain, head if begins_segment else None)
        start = at + size


def _head(content: bytes, name: object) -> Head | None:
    """Read a segment's head; None where a crash cut it short."""
    if len(content) < _HEAD_BYTES - 1 and content[: len(MAGIC)] == MAGIC[: len(content)]:
        return None
    file = BytesIO(content)
    head = read_head(file, name)
    if len(head.encode()) != _HEAD_BYTES - 1:
        raise SealingError(f"{name} has a head that was changed")
    return head


def _must_follow(
    label: Label, expected: Label | None, segments: int, chain: bytes, name: object
) -> None:
    if expected is not None:
        label.must_be(expected, name)
    if (label.facts.get("segment"), label.facts.get("previous")) != (segments, chain.hex()):
        raise SealingError(f"{name}: lines before segment {segments} are missing or were moved")


def _line(
    rest: memoryview, prefix: bytes, number: int, data_key: bytes, chain: bytes, name: str
) -> tuple[str, int] | None:
    """Open the record that bytes begin with: its text and size; None where it is cut short."""
    if len(rest) and rest[0] != ord("R"):
        raise SealingError(f"{name}: no line begins here: the log was changed")
    if len(rest) < 1 + _LENGTH_BYTES:
        return None
    try:
        length = bytes(rest[1 : 1 + _LENGTH_BYTES])
        count = open_sealed(data_key, nonce(prefix, number, False), length, chain)
        size = 1 + _LENGTH_BYTES + int.from_bytes(count, "big") + TAG_BYTES
        if len(rest) < size:
            return None
        sealed = bytes(rest[1 + _LENGTH_BYTES : size])
        text = open_sealed(data_key, nonce(prefix, number, True), sealed, chain)
    except CryptoError as error:
        raise SealingError(
            f"{name}: a line does not open: it was changed or moved, or lines before it are missing"
        ) from error
    return text.decode("utf-8", "replace"), size


def _linked(chain: bytes, part: bytes) -> bytes:
    """Return the hash over a log so far and its next part."""
    return hashlib.sha256(chain + hashlib.sha256(part).digest()).digest()
