"""A client's half of a secure sum by CKKS: the key, what it encrypts, and which sums it opens.

The server follows the protocol here, by assumption: a client cannot see whether what it is given to
open is a sum. It keeps to what can be said: only what is stated to be of enough clients, itself
among them, and once for each round of a run.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from fedsim import ckks_messages, distributed, ring
from fedsim.clients._quiet import LostClientError
from fedsim.config.schema import RunConfig
from fedsim.errors import FedsimError
from fedsim.files import read_secret
from fedsim.secagg import ckks
from fedsim.secagg.ckks import CkksError, Key

__all__ = ["KEY", "encrypted", "key_of", "must_encrypt", "opened"]

#: Key of the run config under which simulated clients find their common key, in hex.
KEY = "simulated-ckks-key"
_FILE, _IDENTITY = "ckks-key", "identity-key"  # of a node's config


def must_encrypt(config: RunConfig, node_config: Mapping[str, Any]) -> None:
    """Raise `LostClientError` where a client must answer by CKKS and in no other way.

    That is so where the experiment says it, and on every node that has a key for it and no identity
    for masks: what the experiment says comes from the server.
    """
    has_key_only = _FILE in node_config and _IDENTITY not in node_config
    if ring.is_encrypted(config) or has_key_only:
        raise LostClientError("this client answers encrypted by CKKS only, not in another way")


def key_of(
    config: RunConfig, run_config: Mapping[str, Any], node_config: Mapping[str, Any], client: int
) -> Key:
    """Return the key of a client: the file `ckks-key` of its node's config, or a simulated one.

    Raises `LostClientError` for a client that has none, and where the experiment has no use of it.
    """
    if not ring.is_encrypted(config):
        raise LostClientError(f"secure_sum.name = {config.secure_sum.name!r} encrypts nothing")
    simulated = run_config.get(KEY)
    try:
        if _FILE in node_config:
            return ckks.open_key(read_secret(Path(str(node_config[_FILE]))))
        # A node with an identity is no simulated one: the run config is the server's to write.
        if simulated and _IDENTITY not in node_config:
            return _simulated(str(simulated))
    except (FedsimError, CkksError) as error:
        raise LostClientError(f"client {client}: {error}") from error
    raise LostClientError(
        f"client {client} has no key for secure_sum.name = 'ckks': its node config does not name "
        f"{_FILE}, the file that `fedsim keys ckks` makes"
    )


def encrypted(config: RunConfig, key: Key, vector: NDArray[np.uint32]) -> RecordDict:
    """Return the answer with a client's vector."""
    ciphertexts = ckks.encrypt(key, vector, distributed.ring_bits(config))
    return ckks_messages.encrypted_content(key.fingerprint, ciphertexts)


def opened(
    config: RunConfig, key: Key, client: int, content: RecordDict, state: RecordDict
) -> RecordDict:
    """Open a sum, once, and return the answer; what was opened is kept in `state`.

    Raises `LostClientError` where the sum is none that this client opens.
    """
    asked, ciphertexts = ckks_messages.read_opening(content)
    members, least = set(asked.clients), config.secure_sum.min_cohort
    last = ckks_messages.opened_of(state).get(asked.run)
    if len(members) != len(asked.clients) or client not in members:
        raise LostClientError("a sum that this client is not in, or another is in twice")
    if len(members) < least:
        raise LostClientError(f"a sum of {len(members)} clients, where {least} are the fewest")
    if last is not None and asked.round <= last:
        raise LostClientError(f"round {asked.round}: a sum of round {last} has been opened already")
    try:
        total = ckks.decrypt(key, ciphertexts, asked.length, asked.bits)
    except CkksError as error:
        raise LostClientError(str(error)) from None
    ckks_messages.set_opened(state, asked.run, asked.round)
    return ckks_messages.opened_content(total)


@lru_cache(maxsize=2)
def _simulated(content: str) -> Key:
    return ckks.open_key(bytes.fromhex(content))
