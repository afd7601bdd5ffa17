"""Who is who: the identity keys by which clients know each other.

A session is as safe as its directory. A server that could answer for it could play every neighbour
of a client itself, so in a deployment each client holds its own copy (or the certificates of an
authority), from elsewhere than the aggregation server.
"""

from collections.abc import Callable, Mapping

from fedsim import crypto
from fedsim.crypto import CryptoError, Profile
from fedsim.secagg.session import Directory
from fedsim.secagg.wire import is_client_id

__all__ = ["Directory", "Simulated", "directory", "simulated"]

Simulated = tuple[Callable[[int], bytes], Directory]
"""Gives the secret identity seed of a client; and the directory of the public keys."""


def directory(keys: Mapping[int, bytes], profile: Profile) -> Directory:
    """Return the directory of the clients in a mapping: id to public identity key.

    Raises `ValueError` naming the id or the key that is none.
    """
    size = crypto.suite(profile).signing_public_bytes
    for client, key in keys.items():
        if not is_client_id(client):
            raise ValueError(f"client = {client!r}: an id from 0 to 2^64 - 1")
        if len(key) != size:
            raise ValueError(
                f"identity key of client {client} has {len(key)} bytes: {size} in the"
                f" {profile} profile"
            )
    return dict(keys).get


def simulated(secret: bytes, profile: Profile) -> Simulated:
    """Return identities that all follow from one secret: for simulations, where nobody hides.

    Whoever knows the secret is every client. It never leaves the run that made it.
    """
    if len(secret) != crypto.KEY_BYTES:
        raise CryptoError(f"secret has {len(secret)} bytes: {crypto.KEY_BYTES} are needed")
    suite = crypto.suite(profile)
    known: dict[int, bytes] = {}

    def seed(client: int) -> bytes:
        return crypto.derive(secret, f"fedsim/sa/v1|simulated|{profile}|{client}".encode())

    def public(client: int) -> bytes | None:
        if client not in known:
            known[client] = suite.signing_public(seed(client))
        return known[client]

    return seed, public
