"""The allow-list: who takes part in secure sums, by which public keys; signed by the authority.

The file is JSON: `list`, and `signature`, the authority's over a canonical form of the list. Its
version only grows. A client keeps the authority's certificate and the last version it has seen
(with its hash, so that two lists of one version do not pass either), and takes nothing older:
neither the server nor whoever carries the file can add, swap or bring back an identity.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedsim.certificates import sign, verify
from fedsim.crypto import CryptoError, Profile, suite
from fedsim.errors import IdentityError, SetupError
from fedsim.files import read_public, read_secret, replacing, write_secret

__all__ = [
    "NAME",
    "Identities",
    "Node",
    "Revoked",
    "Secret",
    "load_identities",
    "load_latest",
    "parse_identities",
    "read_identity",
    "signed",
    "write_identity",
]

#: What nodes may be called: a label of a host name, because certificates have it as one.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_CONTEXT = b"fedsim/identities/v1|"
_FORMAT = 1
_MAGIC = "fedsim-identity-v1"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the list: its number among clients, name, and public keys.

    `identity`: what it signs secure sums with. `certificate`: SHA-256 of its TLS certificate.
    `login`: SHA-256 of its key for Flower's SuperNode authentication.
    """

    id: int
    name: str
    identity: bytes
    certificate: str
    login: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """A node that was taken off the list, and when."""

    id: int
    name: str
    since: str


@dataclass(frozen=True, slots=True)
class Identities:
    """An allow-list. `next_id`: numbers are never given twice, not even a revoked node's."""

    profile: Profile
    version: int = 0
    issued: str = ""
    next_id: int = 0
    nodes: tuple[Node, ...] = ()
    revoked: tuple[Revoked, ...] = ()

    def directory(self, client: int) -> bytes | None:
        """Return the public key of a client; None for one that is not on the list."""
        return next((node.identity for node in self.nodes if node.id == client), None)

    def find(self, name: str) -> Node | None:
        """Return the node of a name; None where there is none."""
        return next((node for node in self.nodes if node.name == name), None)


@dataclass(frozen=True, slots=True)
class Secret:
    """The private half of an identity: a seed, which `fedsim.crypto.suite(profile)` makes a key."""

    profile: Profile
    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """Return the public key."""
        return suite(self.profile).signing_public(self.seed)


def write_identity(path: Path, secret: Secret) -> None:
    """Write a private identity into a file that only its owner can read."""
    text = f"{_MAGIC} {secret.profile} {base64.b64encode(secret.seed).decode()}\n"
    write_secret(path, text.encode())


def read_identity(path: Path) -> Secret:
    """Read a private identity; raise `SetupError` where others can read it or it is none."""
    words = read_secret(path).decode("ascii", "replace").split()
    try:
        magic, profile, text = words
        seed = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        magic, profile, seed = "", "", b""
    if magic != _MAGIC or len(seed) != 32 or profile not in ("standard", "fips"):
        raise SetupError(f"{path} is not a private identity as `fedsim keys add` writes it")
    return Secret("fips" if profile == "fips" else "standard", seed)


def signed(identities: Identities, authority_key: bytes) -> bytes:
    """Return the file of an allow-list, signed by the authority."""
    content = _content(identities)
    signature = sign(authority_key, _CONTEXT + _canonical(content))
    file = {"list": content, "signature": base64.b64encode(signature).decode()}
    return json.dumps(file, indent=2, sort_keys=True).encode() + b"\n"


def parse_identities(content: bytes, authority: bytes, name: object) -> Identities:
    """Read the file of an allow-list; raise `IdentityError` unless the authority signed it."""
    try:
        file = json.loads(content)
        found, signature = file["list"], base64.b64decode(file["signature"], validate=True)
        verify(authority, signature, _CONTEXT + _canonical(found))
    except CryptoError as error:
        raise IdentityError(
            f"{name} is not signed by this authority: {error}. Get the list again from who runs "
            "`fedsim keys`; a changed list must not be used"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IdentityError(f"{name} is not an allow-list of identities") from error
    try:
        return _identities(found)
    except (ValueError, TypeError, KeyError) as error:
        raise IdentityError(
            f"{name} is signed, but not an allow-list that this fedsim reads: {error}"
        ) from error


def load_identities(path: Path, authority: bytes, *, seen: int = 0) -> Identities:
    """Read an allow-list and check it against the authority's certificate (PEM).

    Raise `IdentityError` for a list that it did not sign or that is older than version `seen`;
    `SetupError` where it cannot be read.
    """
    found = parse_identities(read_public(path), authority, path)
    if found.version < seen:
        raise IdentityError(
            f"{path} has version {found.version}, but version {seen} has been seen already: it may "
            "hold identities that were revoked since. Get the newest list"
        )
    return found


def load_latest(path: Path, authority: bytes, memory: Path) -> Identities:
    """Read an allow-list as `load_identities` does, and remember its version in the file `memory`.

    What is remembered is never older than before; another list of the same version is refused too.
    """
    seen, digest = _remembered(memory)
    found = load_identities(path, authority, seen=seen)
    own = hashlib.sha256(_canonical(_content(found))).hexdigest()
    if found.version == seen and digest and own != digest:
        raise IdentityError(
            f"{path} is another list of version {seen} than the one seen before: one authority "
            "signed two lists with one number. Ask who runs it which one holds"
        )
    if (found.version, own) != (seen, digest):
        try:
            with replacing(memory) as file:
                file.write(f"{found.version} {own}\n".encode())
        except OSError as error:
            raise SetupError(f"cannot write {memory}: {error.strerror or error}") from error
    return found


def _remembered(memory: Path) -> tuple[int, str]:
    if not memory.exists():
        return 0, ""
    words = read_public(memory).decode("ascii", "replace").split()
    if len(words) != 2 or not words[0].isdigit():
        raise IdentityError(
            f"{memory} does not say which version of the identities was seen last. Where that is "
            "known to be in order, delete the file"
        )
    return int(words[0]), words[1]


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _content(identities: Identities) -> dict[str, Any]:
    """Return what is signed."""
    content = {"format": _FORMAT, **asdict(identities)}
    content["nodes"] = [
        {**asdict(node), "identity": base64.b64encode(node.identity).decode()}
        for node in identities.nodes
    ]
    return content


def _identities(content: Mapping[str, Any]) -> Identities:
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r}")
    profile = content["profile"]
    nodes = tuple(_node(entry, profile) for entry in content["nodes"])
    if len({node.id for node in nodes}) < len(nodes) or len({n.name for n in nodes}) < len(nodes):
        raise ValueError("two nodes have one id or one name")
    return Identities(
        suite(profile).name,
        _number(content["version"]),
        str(content["issued"]),
        _number(content["next_id"]),
        nodes,
        tuple(
            Revoked(_number(entry["id"]), str(entry["name"]), str(entry["since"]))
            for entry in content["revoked"]
        ),
    )


def _node(entry: Mapping[str, Any], profile: Profile) -> Node:
    identity = base64.b64decode(entry["identity"], validate=True)
    if len(identity) != suite(profile).signing_public_bytes:
        raise ValueError(f"node {entry['id']!r} has an identity of {len(identity)} bytes")
    name, certificate, login = (str(entry[key]) for key in ("name", "certificate", "login"))
    return Node(_number(entry["id"]), name, identity, certificate, login)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value
