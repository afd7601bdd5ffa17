"""Who may have an experiment run here: an Ed25519 signature over its text, by a key that is listed.

`approvers.toml` lists names, public keys and how long they count; the server has no part in it.
"""

import base64
import binascii
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.crypto import CryptoError, suite
from fedsim.errors import ConfigError, FedsimError, Problem
from fedsim.fields import unknown
from fedsim.registry import suggest

__all__ = [
    "SIGNATURE",
    "TEXT",
    "Approver",
    "RefusedError",
    "approver_of",
    "approvers_text",
    "experiment_sha256",
    "read_approvers",
    "sign",
]

#: Keys of the run config under which the server passes on what was approved.
TEXT, SIGNATURE = "experiment-text", "experiment-signature"

_TABLE, _KEYS = "approvers", ("key", "not_before", "not_after")


class RefusedError(FedsimError):
    """A node does not do what it is asked to; the message says why, and nothing of the data."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Approver:
    """Somebody who approves experiments; times are aware of their zone, None has no limit."""

    name: str
    key: bytes
    not_before: datetime | None = None
    not_after: datetime | None = None

    def counts(self, now: datetime) -> bool:
        """Say whether an approval by this key counts at a time."""
        is_early = self.not_before is not None and now < self.not_before
        return not is_early and not (self.not_after is not None and now >= self.not_after)


def sign(seed: bytes, text: str) -> str:
    """Return the signature of an approver, whose secret key is `seed`, over an experiment's text.

    >>> len(sign(bytes(32), "an experiment"))
    88
    """
    return base64.b64encode(suite("standard").sign(seed, text.encode())).decode()


def experiment_sha256(text: str) -> str:
    """Return the hash that names an experiment in logs and ledgers: of the text that was signed."""
    return hashlib.sha256(text.encode()).hexdigest()


def approver_of(
    text: str, signature: str, approvers: Mapping[str, Approver], now: datetime
) -> Approver:
    """Return who approved an experiment.

    Raises `RefusedError` where nobody on the list did, or whose key does not count at this time.
    """
    if not text or not signature:
        raise RefusedError("the experiment is not signed: no approver has seen it")
    try:
        given = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError("the experiment's signature is not base64") from None
    for approver in approvers.values():
        try:
            suite("standard").verify(approver.key, given, text.encode())
        except CryptoError:
            continue
        if not approver.counts(now):
            raise RefusedError(
                f"the experiment is signed by {approver.name}, whose key counts "
                f"{_span(approver)}, not on {now:%Y-%m-%d %H:%M} UTC"
            )
        return approver
    raise RefusedError(
        "the experiment's signature is by none of this node's approvers, or its text was changed"
    )


def read_approvers(path: Path) -> dict[str, Approver]:
    """Read who may approve experiments. Raises `ConfigError` with everything that is wrong."""
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        accepted = f"a list that can be read ({error.strerror}): without one all is refused"
        raise ConfigError([Problem(_TABLE, str(path), accepted)]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(_TABLE, str(path), f"valid TOML ({error})")]) from error
    problems = [
        unknown(key, content[key], [_TABLE], suggest(key, [_TABLE]))
        for key in content.keys() - {_TABLE}
    ]
    listed = content.get(_TABLE)
    if not isinstance(listed, dict):
        accepted = f"a table [{_TABLE}.NAME] with a key for each"
        raise ConfigError([*problems, Problem(_TABLE, listed, accepted, source=str(path))])
    found = {name: _approver(name, entry, problems) for name, entry in listed.items()}
    if problems:
        raise ConfigError([replace(problem, source=str(path)) for problem in problems])
    return {name: approver for name, approver in found.items() if approver is not None}


def approvers_text(approvers: Mapping[str, Approver]) -> str:
    """Return the content of an approvers.toml.

    >>> print(approvers_text({"anna": Approver("anna", bytes(32))}))
    [approvers.anna]
    key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    <BLANKLINE>
    """
    table = {
        name: {
            "key": base64.b64encode(own.key).decode(),
            **({"not_before": own.not_before} if own.not_before else {}),
            **({"not_after": own.not_after} if own.not_after else {}),
        }
        for name, own in approvers.items()
    }
    return tomli_w.dumps({_TABLE: table})


def _approver(name: str, entry: Any, problems: list[Problem]) -> Approver | None:
    path, before = f"{_TABLE}.{name}", len(problems)
    if not isinstance(entry, dict):
        problems.append(Problem(path, entry, "a table with a key"))
        return None
    for key in entry.keys() - set(_KEYS):
        problems.append(
            unknown(f"{path}.{key}", entry[key], list(_KEYS), suggest(key, list(_KEYS)))
        )
    public = _public(entry.get("key"))
    if public is None:
        accepted = "a public Ed25519 key: 32 bytes in base64"
        problems.append(Problem(f"{path}.key", entry.get("key"), accepted))
    times = {}
    for key in _KEYS[1:]:
        time = times[key] = entry.get(key)
        if key in entry and not (isinstance(time, datetime) and time.tzinfo is not None):
            accepted = "a time with its zone, such as 2027-01-01T00:00:00Z"
            problems.append(Problem(f"{path}.{key}", entry[key], accepted))
    if len(problems) > before or public is None:
        return None
    return Approver(name, public, **times)


def _public(given: Any) -> bytes | None:
    try:
        found = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return None
    return found if len(found) == suite("standard").signing_public_bytes else None


def _span(approver: Approver) -> str:
    parts = [
        f"{word} {time:%Y-%m-%d %H:%M %Z}"
        for word, time in (("from", approver.not_before), ("until", approver.not_after))
        if time is not None
    ]
    return " ".join(parts)
