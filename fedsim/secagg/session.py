"""What both sides derive from a roster: session id, neighbours, keys, and what is signed.

The session id is a hash of everything that a session rests on: version, parameters, and every
client's id, identity key and advert. It goes into the derivation of each key, into what each
ciphertext authenticates and into each signature, so clients that were shown different rosters share
no key: their shares do not decrypt, and nothing leaks.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedsim.crypto import Agreement, derive
from fedsim.secagg import graph, wire
from fedsim.secagg.parameters import Neighbourhood
from fedsim.secagg.wire import Advert, AskConfirm, AskKeys, AskMasked, AskShares, AskUnmask

__all__ = [
    "Asked",
    "Directory",
    "Roster",
    "advert_statement",
    "commitment",
    "mask_key",
    "neighbours_of",
    "pair_label",
    "read_asked",
    "roster_of",
    "self_key",
    "session_id",
    "share_key",
    "survivors_statement",
]

_VERSION = b"fedsim/sa/v1"

Directory = Callable[[int], bytes | None]
"""Gives a client's identity key, a public key for signatures; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Every advert of a session, ids increasing; a client's place in it is its index."""

    ids: tuple[int, ...]
    adverts: tuple[Advert, ...]
    digest: bytes


_Sent = AskKeys | AskShares | AskMasked | AskConfirm | AskUnmask
Asked = AskKeys | Roster | AskMasked | AskConfirm | AskUnmask


@lru_cache(maxsize=2)
def read_asked(message: bytes) -> Asked:
    """Read what a server asks; raise `WireError`.

    Remembered, because in a simulation all clients are sent the same, long roster.
    """
    kinds: tuple[type[_Sent], ...] = (AskKeys, AskShares, AskMasked, AskConfirm, AskUnmask)
    asked = wire.decode(message, *kinds)
    return roster_of(asked.adverts) if isinstance(asked, AskShares) else asked


def roster_of(adverts: Iterable[Advert]) -> Roster:
    """Return the roster of adverts in the order of their ids."""
    listed = tuple(adverts)
    parts = (part for advert in listed for part in _parts(advert))
    return Roster(tuple(a.client for a in listed), listed, wire.digest(b"roster", *parts))


def session_id(parameters: bytes, roster: Roster, identities: Iterable[bytes]) -> bytes:
    """Return the id of a session of these encoded parameters, adverts and identity keys."""
    owners = wire.digest(b"identities", *identities)
    return wire.digest(_VERSION, b"session", parameters, roster.digest, owners)


def neighbours_of(session: bytes, size: Neighbourhood, index: int, n: int) -> Sequence[int]:
    """Return the indices of a client's neighbours: the same for everybody in the session.

    The graph is a function of the session id (Bell et al. 2020, with the random permutation made by
    each client), so the server cannot choose who is whose neighbour.
    """
    if size.degree == n - 1:
        return [*range(index), *range(index + 1, n)]
    return _graph(derive(session, _VERSION + b"|graph"), n, size.degree)[index]


@lru_cache(maxsize=2)
def _graph(seed: bytes, n: int, degree: int) -> list[list[int]]:
    return graph.neighbours(seed, n, degree)


def commitment(parameters: bytes, client: int, seed: bytes) -> bytes:
    """Commit a client to the seed of its own mask; the seed's 256 random bits hide it."""
    return wire.digest(_VERSION, b"commitment", parameters, wire.pack_ids([client]), seed)


def advert_statement(parameters: bytes, advert: Advert) -> bytes:
    """Return what the signature of an advert is over."""
    return wire.digest(_VERSION, b"advert", parameters, *_parts(advert)[:-1])


def survivors_statement(session: bytes, survivors: Iterable[int]) -> bytes:
    """Return what a client signs when it confirms a survivor set."""
    return wire.digest(_VERSION, b"survivors", session, wire.pack_ids(survivors))


def pair_label(session: bytes, sender: int, receiver: int) -> bytes:
    """Return what the ciphertext of one client for another authenticates besides its content."""
    return _VERSION + b"|pair|" + session + struct.pack(">QQ", sender, receiver)


def share_key(mine: Agreement, theirs: bytes, session: bytes, clients: tuple[int, int]) -> bytes:
    """Return the key under which two clients send each other shares."""
    return derive(mine.agree(theirs), _info(b"share", session, *sorted(clients)))


def mask_key(mine: Agreement, theirs: bytes, session: bytes, clients: tuple[int, int]) -> bytes:
    """Return the key of the mask that two clients share: one adds it, the other subtracts it."""
    return derive(mine.agree(theirs), _info(b"mask", session, *sorted(clients)))


def self_key(seed: bytes, session: bytes, client: int) -> bytes:
    """Return the key of a client's own mask."""
    return derive(seed, _info(b"self", session, client))


def _info(purpose: bytes, session: bytes, *clients: int) -> bytes:
    return b"|".join((_VERSION, purpose, session + wire.pack_ids(clients)))


def _parts(advert: Advert) -> tuple[bytes, ...]:
    return (wire.pack_ids([advert.client]), *advert[1:])
