"""The envelope: a file encrypted under a key of its own, which is wrapped under a storage key.

    magic (8) | length of the header (4) | header | key id (8) | wrapped data key (40) | chunks

The header is JSON in clear: format, purpose and facts of the file, chunk size, nonce prefix. It is
the associated data of every chunk, so a file that stands for another one does not open. Chunks are
AES-256-GCM with the nonce `prefix (7) | number (4) | 1 for the last one, else 0`: the STREAM
construction (Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7), under which chunks cannot be dropped,
repeated, reordered or cut off. The data key is random for each file and wrapped by AES key wrap
(RFC 3394): another storage key changes 48 bytes of the file and nothing else. The key id is outside
the associated data for that; with another id the data key does not unwrap.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

from fedsim.crypto import (
    KEY_BYTES,
    TAG_BYTES,
    CryptoError,
    derive,
    open_sealed,
    random_key,
    seal,
    unwrap_key,
    wrap_key,
)
from fedsim.errors import SealingError
from fedsim.sealing._keys import ID_BYTES, StorageKeys

__all__ = [
    "CHUNK_BYTES",
    "MAGIC",
    "SLOT_BYTES",
    "Head",
    "Label",
    "memory_name",
    "new_head",
    "nonce",
    "open_bytes",
    "open_chunks",
    "read_head",
    "rewrapped",
    "seal_bytes",
    "seal_chunks",
]

MAGIC = b"fedsim\x00\x01"
CHUNK_BYTES = 2**20
FORMAT = 1
SLOT_BYTES = ID_BYTES + KEY_BYTES + 8  # id of the storage key, and the wrapped data key

_PREFIX_BYTES = 7
_MOST_HEADER_BYTES = 2**16
_MOST_CHUNK_BYTES = 2**24
_MOST_CHUNKS = 2**32

Fact = str | int
Piece = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Label:
    """What a sealed file is: its purpose, and facts that tell it from others of that purpose.

    Whoever opens a file says what it must be; facts that he does not know he leaves out.
    """

    purpose: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def must_be(self, expected: "Label", name: object) -> None:
        """Raise `SealingError` unless this is what was expected."""
        if self.purpose != expected.purpose:
            raise SealingError(
                f"{name} was sealed as {self.purpose!r}, not as {expected.purpose!r}: it is "
                "another file under this name"
            )
        for key, value in expected.facts.items():
            if self.facts.get(key) != value:
                raise SealingError(
                    f"{name} was sealed with {key} = {self.facts.get(key)!r}, not {value!r}: it "
                    "is another file under this name"
                )


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an envelope; `public` are the bytes that every chunk authenticates."""

    public: bytes
    key_id: str
    wrapped: bytes
    label: Label
    chunk_bytes: int
    prefix: bytes

    def encode(self) -> bytes:
        """Return the head as it stands in the file."""
        return self.public + bytes.fromhex(self.key_id) + self.wrapped

    def data_key(self, keys: StorageKeys, name: object) -> bytes:
        """Return the data key.

        Raise `SetupError` for a key id that is not known, `SealingError` for a changed head.
        """
        try:
            key = unwrap_key(keys.key(self.key_id, name), self.wrapped)
        except CryptoError as error:
            raise SealingError(
                f"{name} does not open: its data key was changed or is of another storage key"
            ) from error
        return key


def new_head(label: Label, keys: StorageKeys, *, padded_to: int = 0) -> tuple[Head, bytes]:
    """Return the head of a new envelope, and its data key: random, for this envelope alone."""
    data_key, prefix = random_key(), os.urandom(_PREFIX_BYTES)
    content = {
        "chunk": CHUNK_BYTES,
        "facts": dict(label.facts),
        "format": FORMAT,
        "prefix": prefix.hex(),
        "purpose": label.purpose,
    }
    header = json.dumps(content, sort_keys=True, separators=(",", ":")).encode().ljust(padded_to)
    if (padded_to and len(header) > padded_to) or len(header) > _MOST_HEADER_BYTES:
        raise ValueError(f"a header of {len(header)} bytes: label {label.purpose!r} says too much")
    public = MAGIC + len(header).to_bytes(4, "big") + header
    wrapped = wrap_key(keys.keys[keys.current], data_key)
    return Head(public, keys.current, wrapped, label, CHUNK_BYTES, prefix), data_key


def read_head(file: BinaryIO, name: object) -> Head:
    """Read the head of an envelope; raise `SealingError` for what is none.

    Nothing in it is certain before a chunk has been opened with it.
    """
    start = file.read(len(MAGIC) + 4)
    if start[: len(MAGIC)] != MAGIC:
        raise SealingError(f"{name} is not a sealed file of a format that this fedsim reads")
    size = int.from_bytes(start[len(MAGIC) :], "big")
    header = file.read(size) if size <= _MOST_HEADER_BYTES else b""
    slot = file.read(SLOT_BYTES)
    if len(header) != size or len(slot) != SLOT_BYTES:
        raise SealingError(f"{name} is cut short in its head, or its head was changed")
    label, chunk_bytes, prefix = _parsed(header, name)
    return Head(start + header, slot[:ID_BYTES].hex(), slot[ID_BYTES:], label, chunk_bytes, prefix)


def seal_chunks(pieces: Iterable[Piece], label: Label, keys: StorageKeys) -> Iterator[bytes]:
    """Return the parts of an envelope around a content that comes in pieces of any size."""
    head, data_key = new_head(label, keys)
    yield head.encode()
    for number, (chunk, is_last) in enumerate(_chunks(pieces, CHUNK_BYTES)):
        if number >= _MOST_CHUNKS:
            raise ValueError(f"a sealed file has at most {_MOST_CHUNKS} chunks")
        yield seal(data_key, nonce(head.prefix, number, is_last), chunk, head.public)


def open_chunks(
    file: BinaryIO, expected: Label, keys: StorageKeys, name: object
) -> Iterator[bytes]:
    """Return the content of an envelope in pieces, each of them authentic.

    Only the end makes the content certain: whoever stops earlier may have the beginning of a
    truncated file, so callers in this package keep everything to themselves until then. Raise
    `SealingError` for whatever was changed, `SetupError` for a storage key that is not there.
    """
    head = read_head(file, name)
    data_key = head.data_key(keys, name)
    head.label.must_be(expected, name)
    size = head.chunk_bytes + TAG_BYTES
    chunk, number = file.read(size), 0
    while True:
        following = file.read(size)
        try:
            yield open_sealed(
                data_key, nonce(head.prefix, number, not following), chunk, head.public
            )
        except CryptoError as error:
            raise SealingError(
                f"{name} does not open: chunk {number} was changed, moved or cut off, or the file "
                "is longer or shorter than it was"
            ) from error
        if not following:
            return
        chunk, number = following, number + 1


def seal_bytes(content: Piece, label: Label, keys: StorageKeys) -> bytes:
    """Return an envelope around bytes."""
    return b"".join(seal_chunks([content], label, keys))


def open_bytes(
    sealed: Piece, expected: Label, keys: StorageKeys, name: object = "the envelope"
) -> bytes:
    """Return what is in an envelope, whole; raise as `open_chunks` does.

    >>> keys = StorageKeys.parse("11" * 32)
    >>> sealed = seal_bytes(b"weights", Label("model", {"run": "a"}), keys)
    >>> open_bytes(sealed, Label("model"), keys)
    b'weights'
    """
    return b"".join(open_chunks(BytesIO(sealed), expected, keys, name))


def rewrapped(head: Head, keys: StorageKeys, name: object) -> Head:
    """Return a head whose data key is wrapped under the current key; raise as `data_key` does."""
    wrapped = wrap_key(keys.keys[keys.current], head.data_key(keys, name))
    return Head(head.public, keys.current, wrapped, head.label, head.chunk_bytes, head.prefix)


def memory_name(head: Head, data_key: bytes) -> str:
    """Return a name for the content of one envelope that only who can open it could make.

    The head is part of it: a content that was opened under one label is not found under another.
    """
    return derive(data_key, b"fedsim/storage/v1|memory|" + head.public, 16).hex()


def nonce(prefix: bytes, number: int, is_last: bool) -> bytes:
    """Return the nonce of a chunk."""
    return prefix + number.to_bytes(4, "big") + bytes([is_last])


def _chunks(pieces: Iterable[Piece], size: int) -> Iterator[tuple[bytes, bool]]:
    """Cut a content into chunks; the last one, which may be empty, is told from the others."""
    held = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while len(held) + len(view) > size:  # so at least a byte comes after this chunk
            taken = size - len(held)
            yield bytes(held) + view[:taken], False
            view, held = view[taken:], bytearray()
        held += view
    yield bytes(held), True


def _parsed(header: bytes, name: object) -> tuple[Label, int, bytes]:
    """Return label, chunk size and nonce prefix of a header."""
    try:
        content = json.loads(header)
        is_known = isinstance(content, dict) and set(content) == {
            "chunk", "facts", "format", "prefix", "purpose",
        }  # fmt: skip
        prefix = bytes.fromhex(content["prefix"]) if is_known else b""
    except (ValueError, TypeError, RecursionError):
        is_known, content, prefix = False, {}, b""
    if not is_known or not _has_its_types(content) or len(prefix) != _PREFIX_BYTES:
        raise SealingError(f"{name} has a header that this fedsim does not read, or it was changed")
    return Label(content["purpose"], content["facts"]), content["chunk"], prefix


def _has_its_types(content: Mapping[str, Any]) -> bool:
    facts = content["facts"]
    return (
        content["format"] == FORMAT
        and isinstance(content["purpose"], str)
        and type(content["chunk"]) is int
        and 1 <= content["chunk"] <= _MOST_CHUNK_BYTES
        and isinstance(facts, dict)
        and all(type(value) in (str, int) for value in facts.values())
    )
