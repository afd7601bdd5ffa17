"""A client's half of the secure sum: who it is, what it accepts, and its answer to a phase.

In a simulation all identities follow from a secret of the run that every process has; a deployed
node has a key of its own and a list of everybody's, both named in its node config.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fedsim import ring, secure_messages
from fedsim.clients._quiet import LostClientError
from fedsim.config.schema import RunConfig
from fedsim.errors import FedsimError
from fedsim.federation import Federation
from fedsim.files import read_public
from fedsim.keys import load_identities, load_latest, read_identity
from fedsim.secagg.client import ClientSession
from fedsim.secagg.identities import Directory, Simulated, simulated
from fedsim.secagg.parameters import CONTENT_BYTES, Policy

__all__ = [
    "SECRET",
    "Asked",
    "cut_sessions",
    "deployed",
    "must_not_mask",
    "policy",
    "server_directory",
    "session_of",
    "simulated_directory",
]

#: Key of the run config under which simulated clients find the secret of their identities, in hex.
SECRET = "simulated-identities"
_IDENTITY, _IDENTITIES, _AUTHORITY = "identity-key", "identities", "authority"  # of a node's config
#: Keys of a node's config, and what they are of its policy.
_POLICY = {
    "min-cohort": "min_cohort",
    "min-threshold": "min_threshold",
    "max-sessions": "max_sessions",
}
_SESSIONS_PER_ROUND = 4  # a round that failed may be tried again
_SESSIONS_PER_CUT = 1_000  # a level takes one, and a cut some dozens of levels


@dataclass(frozen=True, slots=True)
class Asked:
    """A client, what it has kept so far, and what it is asked."""

    session: ClientSession
    kept: bytes
    message: bytes

    def answer(
        self, vector: NDArray[np.uint32] | None = None, content: bytes = bytes(CONTENT_BYTES)
    ) -> tuple[bytes, RecordDict]:
        """Return what to keep from now on, and the content of the reply.

        `vector` is what is to be masked, `content` the hash of the order that it was made by.
        """
        kept, reply = self.session.step(
            self.kept, self.message, vector, now=time.time(), content=content
        )
        return kept, secure_messages.reply_content(reply.message, reply.vector)


def session_of(
    federation: Federation,
    run_config: Mapping[str, Any],
    node_config: Mapping[str, Any],
    client: int,
) -> ClientSession:
    """Return a client's half of the protocol, with its identity and its policy.

    Raises `LostClientError` for a node that has no identity.
    """
    config, secret = federation.config, run_config.get(SECRET)
    # A node with an identity uses no other: the run config is the server's to write.
    if secret and _IDENTITY not in node_config:
        seed, public = _simulated(str(secret), config.secure_sum.profile)
        return ClientSession(client, seed(client), public, policy(config))
    return deployed(node_config, config, client)


def simulated_directory(run_config: Mapping[str, Any], config: RunConfig) -> Directory:
    """Return the identity keys of simulated clients; nobody's where none are simulated."""
    secret = run_config.get(SECRET)
    return _simulated(str(secret), config.secure_sum.profile)[1] if secret else lambda client: None


def must_not_mask(config: RunConfig, node_config: Mapping[str, Any]) -> None:
    """Raise `LostClientError` where a client must not answer in the clear.

    That is so where the experiment has masks, and on every node with an identity of its own: what
    the experiment says comes from the server.
    """
    if ring.is_masked(config) or _IDENTITY in node_config:
        raise LostClientError("this client answers under masks only, not in the clear")


def policy(config: RunConfig) -> Policy:
    """Return what clients of an experiment accept: what it says, and nothing weaker."""
    secure = config.secure_sum
    return Policy(
        min_cohort=secure.min_cohort,
        min_threshold=secure.threshold,
        max_sessions=_SESSIONS_PER_ROUND * config.rounds.count + cut_sessions(config),
        min_adversaries=secure.adversaries,
        semi_malicious=secure.semi_malicious,
        profiles=(secure.profile,),
    )


def cut_sessions(config: RunConfig) -> int:
    """Return how many sessions clients of an experiment may need to agree on a cut: 0 for none."""
    settings = config.anonymization
    shares = settings.name not in ("none", "raw") and settings.cut != "local"
    return _SESSIONS_PER_CUT if shares else 0


def deployed(node_config: Mapping[str, Any], config: RunConfig, client: int) -> ClientSession:
    """Return the session of a node with an identity of its own.

    Its node config names files that `fedsim keys` makes: `identity-key`, its secret, `identities`,
    the list of everybody's public keys, and, unless it is `ca.crt` beside the secret, `authority`,
    the certificate that the list is checked against. What the node accepts is its own too, not the
    experiment's, which the server writes: `min-cohort`, `min-threshold` and `max-sessions`, where
    the defaults of `Policy` do not suit it. Raises `LostClientError` for what is missing or wrong.
    """
    if missing := [key for key in (_IDENTITY, _IDENTITIES) if key not in node_config]:
        raise LostClientError(
            f"client {client} has no identity for secure_sum.name = {config.secure_sum.name!r}: "
            f"its node config does not name {' and '.join(missing)}"
        )
    key = Path(str(node_config[_IDENTITY]))
    authority = Path(str(node_config.get(_AUTHORITY, key.with_name("ca.crt"))))
    memory = key.with_name("identities.seen")
    try:
        secret = read_identity(key)
        listed = load_latest(Path(str(node_config[_IDENTITIES])), authority.read_bytes(), memory)
        own = {name: node_config[key] for key, name in _POLICY.items() if key in node_config}
        accepted = Policy(profiles=(secret.profile,), **own)
    except (FedsimError, OSError, TypeError, ValueError) as error:
        raise LostClientError(f"client {client}: {error}") from error
    return ClientSession(client, secret.seed, listed.directory, accepted)


def server_directory(run_config: Mapping[str, Any], config: RunConfig) -> Directory:
    """Return the identity keys that a deployed server checks clients' adverts against.

    The app's configuration names the files `identities` and `authority`; without them they are
    those of simulated clients, if any. Clients do not rest on it: they have their own list. Raises
    `IdentityError` and `SetupError` for files that are not what they should be.
    """
    listed, authority = (str(run_config.get(key) or "") for key in (_IDENTITIES, _AUTHORITY))
    if not listed:
        return simulated_directory(run_config, config)
    found = load_identities(Path(listed), read_public(Path(authority)))
    return found.directory


@lru_cache(maxsize=2)
def _simulated(secret: str, profile: Any) -> Simulated:
    return simulated(bytes.fromhex(secret), profile)
