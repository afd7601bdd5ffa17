"""Bytes of the secure sum's messages: strict and bounded to parse, unambiguous to sign.

A message is one msgpack map, `{"kind": class name, field: value, ...}`. What comes from elsewhere
is hostile until it was read: a field that is missing, unknown, of another type or out of its bounds
is a `WireError`, and so are bytes after the end. Whatever is signed or hashed goes through
`digest`, which puts a length before every part (Bonawitz et al. 2017 leave the encoding open).
"""

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_type_hints

import msgpack

from fedsim.crypto import KEY_BYTES, NONCE_BYTES, SIGNATURE_BYTES, TAG_BYTES
from fedsim.secagg.shamir import SHARE_BYTES

__all__ = [
    "MOST_CLIENTS",
    "Aborted",
    "Advert",
    "AskConfirm",
    "AskKeys",
    "AskMasked",
    "AskShares",
    "AskUnmask",
    "Confirmed",
    "Keys",
    "Masked",
    "Row",
    "Shares",
    "Unmasked",
    "WireError",
    "decode",
    "digest",
    "encode",
    "is_client_id",
    "pack_ids",
    "unpack_ids",
]

MOST_CLIENTS = 100_000  # in a cohort
SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES  # a pair of shares on its way
_MOST_BYTES = 2**28  # of a message
_MOST_ID = 2**64 - 1  # Flower's node ids are of 64 bits
_MOST_KEY = 256  # bytes of a public key; the exact size is the profile's to say
_MOST_REASON = 400

Check = Callable[[object, str], Any]
Message = TypeVar("Message")


class WireError(ValueError):
    """Bytes that are no message of the kinds that may come now; names the field."""


# What a field may hold: the first thing that its type is annotated with, before how it is written.
# Each check returns the value, or raises `WireError` naming the field.


def integer(least: int, most: int) -> Check:
    """Accept integers in a range; True and False are none."""

    def check(value: object, name: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise WireError(f"{name}: not an integer from {least} to {most}")
        return value

    return check


def number(value: object, name: str) -> float:
    """Accept finite floats; integers are none."""
    if type(value) is not float or not abs(value) < float("inf"):
        raise WireError(f"{name}: not a finite float")
    return value


def boolean(value: object, name: str) -> bool:
    """Accept True and False."""
    if type(value) is not bool:
        raise WireError(f"{name}: neither true nor false")
    return value


def text(most: int) -> Check:
    """Accept text of at most so many characters."""

    def check(value: object, name: str) -> str:
        if type(value) is not str or len(value) > most:
            raise WireError(f"{name}: not a text of at most {most} characters")
        return value

    return check


def blob(least: int, most: int | None = None) -> Check:
    """Accept byte strings of a size: `least` exactly, or from `least` to `most`."""
    most = least if most is None else most

    def check(value: object, name: str) -> bytes:
        if type(value) is not bytes or not least <= len(value) <= most:
            raise WireError(f"{name}: not {least} to {most} bytes")
        return value

    return check


def rows(shape: type[tuple[Any, ...]], *checks: Check) -> Check:
    """Accept rows, one per client: the id first, ids strictly increasing."""

    def check(value: object, name: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > MOST_CLIENTS:
            raise WireError(f"{name}: not a list of at most {MOST_CLIENTS} rows")
        made = tuple(_row(shape, checks, found, name) for found in value)
        if any(after[0] <= before[0] for before, after in pairwise(made)):
            raise WireError(f"{name}: ids are not strictly increasing")
        return made

    return check


def row(shape: type[tuple[Any, ...]], *checks: Check) -> Check:
    """Accept one row."""
    return lambda value, name: _row(shape, checks, value, name)


def _row(shape: type[tuple[Any, ...]], checks: tuple[Check, ...], value: object, name: str) -> Any:
    if type(value) is not list or len(value) != len(checks):
        raise WireError(f"{name}: a row is not a list of {len(checks)}")
    return shape(*[check(cell, name) for check, cell in zip(checks, value, strict=True)])


def blobs(least: int, most: int, count: int) -> Check:
    """Accept a list of at most `count` byte strings of a size."""
    one = blob(least, most)

    def check(value: object, name: str) -> tuple[bytes, ...]:
        if type(value) is not list or len(value) > count:
            raise WireError(f"{name}: not a list of at most {count}")
        return tuple(one(found, name) for found in value)

    return check


def ids(value: object, name: str) -> tuple[int, ...]:
    """Accept packed ids (`pack_ids`), strictly increasing."""
    if type(value) is not bytes or len(value) % 8 or len(value) > 8 * MOST_CLIENTS:
        raise WireError(f"{name}: not at most {MOST_CLIENTS} ids of 8 bytes")
    found = unpack_ids(value)
    if any(after <= before for before, after in pairwise(found)):
        raise WireError(f"{name}: ids are not strictly increasing")
    return found


def is_client_id(value: object) -> bool:
    """Say whether this can be a client's id: an integer of 64 bits, not negative."""
    return type(value) is int and 0 <= value <= _MOST_ID


def pack_ids(clients: Iterable[int]) -> bytes:
    """Write ids, 8 bytes each, big-endian."""
    listed = tuple(clients)
    return struct.pack(f">{len(listed)}Q", *listed)


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """Undo `pack_ids`."""
    return struct.unpack(f">{len(packed) // 8}Q", packed)


CLIENT_ID = integer(0, _MOST_ID)
SEED = blob(KEY_BYTES)
SHARE = blob(SHARE_BYTES)
PUBLIC_KEY = blob(1, _MOST_KEY)
SIGNATURE = blob(SIGNATURE_BYTES)


class Advert(NamedTuple):
    """What a client says of itself for one session, signed with its identity.

    `agreement` is the public key under which it gets shares (c in the papers), `masking` that of
    its pairwise masks (s), `commitment` a hash of the seed of its own mask (b).
    """

    client: int
    agreement: bytes
    masking: bytes
    nonce: bytes
    commitment: bytes
    signature: bytes


class Row(NamedTuple):
    """Bytes from, for or about one client."""

    client: int
    content: bytes


ADVERT = (CLIENT_ID, PUBLIC_KEY, PUBLIC_KEY, SEED, SEED, SIGNATURE)


# From the server, one per phase.


@dataclasses.dataclass(frozen=True, slots=True)
class AskKeys:
    """Begin a session: its parameters, encoded."""

    parameters: Annotated[bytes, blob(1, 4096)]


@dataclasses.dataclass(frozen=True, slots=True)
class AskShares:
    """Every advert that came: the roster."""

    adverts: Annotated[tuple[Advert, ...], rows(Advert, *ADVERT)]


@dataclasses.dataclass(frozen=True, slots=True)
class AskMasked:
    """What the neighbours encrypted for this client."""

    shares: Annotated[tuple[Row, ...], rows(Row, CLIENT_ID, blob(SEALED_BYTES))]


@dataclasses.dataclass(frozen=True, slots=True)
class AskConfirm:
    """Whose masked vectors came: the survivor set."""

    survivors: Annotated[tuple[int, ...], ids, pack_ids]


@dataclasses.dataclass(frozen=True, slots=True)
class AskUnmask:
    """Neighbours' signatures over the survivor set."""

    signatures: Annotated[tuple[Row, ...], rows(Row, CLIENT_ID, SIGNATURE)]


# From a client, one per phase; or that it stops.


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """The advert of the client that replies."""

    advert: Annotated[Advert, row(Advert, *ADVERT)]


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """Shares of this client's two secrets, encrypted for each neighbour."""

    shares: Annotated[tuple[Row, ...], rows(Row, CLIENT_ID, blob(SEALED_BYTES))]


@dataclasses.dataclass(frozen=True, slots=True)
class Masked:
    """A masked vector comes beside this message; nothing else is said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Confirmed:
    """A signature over the survivor set."""

    signature: Annotated[bytes, SIGNATURE]


@dataclasses.dataclass(frozen=True, slots=True)
class Unmasked:
    """Shares of the survivors' own masks and of the lost clients' pairwise masks."""

    self_shares: Annotated[tuple[Row, ...], rows(Row, CLIENT_ID, SHARE)]
    pair_shares: Annotated[tuple[Row, ...], rows(Row, CLIENT_ID, SHARE)]


@dataclasses.dataclass(frozen=True, slots=True)
class Aborted:
    """The client stopped and has erased its secrets."""

    reason: Annotated[str, text(_MOST_REASON)]


def checks(kind: type[Any]) -> dict[str, Check]:
    """Return how each field of a message is checked."""
    return {name: check for name, (check, *_) in _fields(kind).items()}


def aborted(reason: str) -> Aborted:
    """Return the message of a client that stops; a reason is cut to what may travel."""
    return Aborted(reason[:_MOST_REASON])


def encode(message: Any) -> bytes:
    """Write a message: a dataclass whose fields are annotated with how they are checked."""
    content: dict[str, object] = {"kind": type(message).__name__}
    for name, (_, *write) in _fields(type(message)).items():
        value = getattr(message, name)
        content[name] = write[0](value) if write else value
    return cast(bytes, msgpack.packb(content))


def _fields(kind: Any) -> dict[str, tuple[Callable[..., Any], ...]]:
    """Return the fields of a message: the check of each and, where it needs one, what writes it."""
    if kind not in _known:
        hints = get_type_hints(kind, include_extras=True)
        _known[kind] = {f.name: hints[f.name].__metadata__ for f in dataclasses.fields(kind)}
    return _known[kind]


_known: dict[Any, dict[str, tuple[Callable[..., Any], ...]]] = {}


def decode(message: bytes, *kinds: type[Message]) -> Message:
    """Read a message of one of some kinds.

    >>> decode(encode(Aborted(reason="policy")), Masked, Aborted)
    Aborted(reason='policy')
    >>> decode(encode(Masked()), Aborted)
    Traceback (most recent call last):
    fedsim.secagg.wire.WireError: kind: not one of Aborted
    """
    content = _unpack(message)
    kind = next((k for k in kinds if content.get("kind") == k.__name__), None)
    if kind is None:
        raise WireError(f"kind: not one of {', '.join(k.__name__ for k in kinds)}")
    fields = _fields(kind)
    if content.keys() != {"kind", *fields}:
        raise WireError(f"{kind.__name__}: fields are missing or unknown")
    return kind(**{name: check(content[name], name) for name, (check, *_) in fields.items()})


def _unpack(message: bytes) -> dict[object, object]:
    if type(message) is not bytes or len(message) > _MOST_BYTES:
        raise WireError(f"message: not at most {_MOST_BYTES} bytes")
    try:
        content = msgpack.unpackb(message, max_array_len=MOST_CLIENTS, max_map_len=64)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("message: not msgpack") from error
    if type(content) is not dict:
        raise WireError("message: not a map")
    return content


def digest(*parts: bytes) -> bytes:
    """Hash parts by SHA-256, each after its length: no two lists of parts are hashed alike.

    >>> digest(b"ab", b"c") == digest(b"a", b"bc")
    False
    """
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
