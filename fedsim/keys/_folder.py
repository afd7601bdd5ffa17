"""A folder of keys: the authority, the server's and the nodes' keys, and the allow-list.

    ca/ca.key, ca.crt, ca.crl    the authority; its key signs everything else
    server/server.key, .crt      TLS of the server
    nodes/NAME/                  what one node gets: TLS, identity, SuperNode key, ca.crt
    identities.json              the allow-list, signed
    storage.key                  keys for sealed storage, oldest first

Everything is readable by its owner alone (0600, folders 0700). One command works on it at a time.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fedsim.certificates import (
    Credential,
    Purpose,
    describe,
    issue,
    login_fingerprint,
    new_authority,
    new_login,
    revocation_list,
    revoked_serials,
)
from fedsim.crypto import CryptoError, Profile, random_key
from fedsim.errors import ConfigError, IdentityError, Problem, SetupError
from fedsim.files import make_private_folder, read_public, read_secret, write_secret
from fedsim.keys._identities import (
    NAME,
    Identities,
    Node,
    Revoked,
    Secret,
    parse_identities,
    signed,
    write_identity,
)
from fedsim.sealing import StorageKeys, new_key_line

__all__ = [
    "RESERVED",
    "KeyFolder",
    "add",
    "init",
    "new_storage_key",
    "only_newest_storage_key",
    "revoke",
    "rotate_node",
    "rotate_server",
]

RESERVED = ("ca", "server", "storage")
HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """Where the files of a folder of keys are."""

    root: Path

    @property
    def authority(self) -> Path:
        """The authority's folder."""
        return self.root / "ca"

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.root / "server"

    @property
    def identities(self) -> Path:
        """The allow-list."""
        return self.root / "identities.json"

    @property
    def storage(self) -> Path:
        """The keys for sealed storage."""
        return self.root / "storage.key"

    def node(self, name: str) -> Path:
        """Return the folder of a node."""
        return self.root / "nodes" / name

    def load_authority(self) -> Credential:
        """Return the authority; raise `SetupError` where there is none."""
        if not (self.authority / "ca.key").exists():
            raise SetupError(
                f"{self.root} is not a folder of keys: {self.authority / 'ca.key'} is missing. "
                f"Make one with: fedsim keys init --folder {self.root}"
            )
        return Credential(
            read_secret(self.authority / "ca.key"), read_public(self.authority / "ca.crt")
        )

    def load_identities(self) -> Identities:
        """Return the allow-list; raise `IdentityError` unless the authority here signed it."""
        authority = self.load_authority().certificate
        return parse_identities(read_public(self.identities), authority, self.identities)

    def revoked_certificates(self) -> dict[int, datetime]:
        """Return the serial numbers of revoked certificates, and since when."""
        authority, path = self.load_authority().certificate, self.authority / "ca.crl"
        try:
            return revoked_serials(read_public(path), authority)
        except CryptoError as error:
            raise IdentityError(f"{path}: {error}") from error


def init(
    root: Path,
    *,
    profile: Profile,
    hosts: Sequence[str] = HOSTS,
    now: datetime,
    days: int,
    authority_days: int,
) -> KeyFolder:
    """Make a folder of keys: an authority, the server's TLS, an empty allow-list, a storage key.

    Raise `ConfigError` where the folder has an authority already, or for hosts that are none.
    """
    folder = KeyFolder(root)
    make_private_folder(root)
    with _alone(folder):
        if (folder.authority / "ca.key").exists():
            accepted = (
                "a folder without keys: this one has an authority, which is never overwritten"
            )
            raise ConfigError([Problem("--folder", str(root), accepted)])
        authority = new_authority("fedsim authority", now=now, days=authority_days)
        server = _issued(authority, "fedsim server", hosts, now, days)
        for path in (folder.authority, folder.server, root / "nodes"):
            make_private_folder(path)
        write_secret(folder.server / "server.key", server.key)
        write_secret(folder.server / "server.crt", server.certificate)
        if not folder.storage.exists():
            write_secret(folder.storage, new_key_line().encode())
        write_secret(folder.authority / "ca.crt", authority.certificate)
        _revoke_certificates(folder, authority, {}, 1, now)
        _publish(folder, authority, Identities(profile), now)
        # Last: what is interrupted before can be begun again.
        write_secret(folder.authority / "ca.key", authority.key)
    return folder


def add(folder: KeyFolder, name: str, *, id: int | None = None, now: datetime, days: int) -> Node:
    """Make the keys of a new node and put it on the allow-list; return its entry.

    `id`: its number among the clients; by default the next one never used. Raise `ConfigError` for
    a name or number that is taken or not possible.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        accepted = "1 to 63 letters a-z, digits and hyphens, as in a host name"
        hint = f"The names {', '.join(RESERVED)} are taken." if name in RESERVED else ""
        raise ConfigError([Problem("NODE", name, accepted, hint)])
    with _alone(folder):
        authority, listed = folder.load_authority(), folder.load_identities()
        if listed.find(name):
            hint = f"For new keys of this node: fedsim keys rotate {name}"
            raise ConfigError([Problem("NODE", name, "a name that is not on the list yet", hint)])
        number = listed.next_id if id is None else id
        used = {node.id for node in listed.nodes} | {gone.id for gone in listed.revoked}
        if number in used or number < 0:
            accepted = f"a number >= 0 that no node has had; the next free one is {listed.next_id}"
            raise ConfigError([Problem("--id", number, accepted)])
        node = _new_node(folder, authority, listed.profile, name, number, now=now, days=days)
        nodes = tuple(sorted((*listed.nodes, node), key=lambda each: each.id))
        last = max(listed.next_id, number + 1)
        _publish(folder, authority, replace(listed, nodes=nodes, next_id=last), now)
    return node


def rotate_node(folder: KeyFolder, name: str, *, now: datetime, days: int) -> Node:
    """Give a node new keys under its old number; the old certificate is revoked."""
    with _alone(folder):
        authority, listed = folder.load_authority(), folder.load_identities()
        old = _must_be_listed(listed, name)
        serials = {**folder.revoked_certificates(), **_serial(folder, name, now)}
        node = _new_node(folder, authority, listed.profile, name, old.id, now=now, days=days)
        _revoke_certificates(folder, authority, serials, listed.version + 1, now)
        nodes = tuple(node if each.name == name else each for each in listed.nodes)
        _publish(folder, authority, replace(listed, nodes=nodes), now)
    return node


def revoke(folder: KeyFolder, name: str, *, now: datetime) -> Revoked:
    """Take a node off the allow-list, revoke its certificate and delete its keys here."""
    with _alone(folder):
        authority, listed = folder.load_authority(), folder.load_identities()
        node = _must_be_listed(listed, name)
        serials = {**folder.revoked_certificates(), **_serial(folder, name, now)}
        _revoke_certificates(folder, authority, serials, listed.version + 1, now)
        gone = Revoked(node.id, node.name, _text(now))
        nodes = tuple(each for each in listed.nodes if each.name != name)
        changed = replace(listed, nodes=nodes, revoked=(*listed.revoked, gone))
        _publish(folder, authority, changed, now)
        shutil.rmtree(folder.node(name), ignore_errors=True)
    return gone


def rotate_server(
    folder: KeyFolder, *, hosts: Sequence[str] = (), now: datetime, days: int
) -> Credential:
    """Give the server a new key and certificate, for the old names unless there are others."""
    with _alone(folder):
        authority = folder.load_authority()
        old = describe(read_public(folder.server / "server.crt"))
        serials = {**folder.revoked_certificates(), old.serial: now}
        made = _issued(authority, "fedsim server", hosts or old.names, now, days)
        write_secret(folder.server / "server.key", made.key)
        write_secret(folder.server / "server.crt", made.certificate)
        version = folder.load_identities().version
        _revoke_certificates(folder, authority, serials, version, now)
    return made


def new_storage_key(folder: KeyFolder) -> StorageKeys:
    """Add a key to those for sealed storage; it seals from now on, the others still open."""
    with _alone(folder):
        folder.load_authority()
        before = read_secret(folder.storage) if folder.storage.exists() else b""
        if before:
            StorageKeys.read(folder.storage)  # refuses to build upon what is broken
            before = before.rstrip(b"\n") + b"\n"
        write_secret(folder.storage, before + new_key_line().encode())
    return StorageKeys.read(folder.storage)


def only_newest_storage_key(folder: KeyFolder) -> StorageKeys:
    """Forget all keys for sealed storage but the newest: what they sealed is then lost."""
    with _alone(folder):
        keys = StorageKeys.read(folder.storage)
        write_secret(folder.storage, keys.keys[keys.current].hex().encode() + b"\n")
    return StorageKeys.read(folder.storage)


@contextmanager
def _alone(folder: KeyFolder) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when the process ends."""
    path = folder.root / ".lock"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise SetupError(
            f"{folder.root} is not a folder of keys that can be written: "
            f"{error.strerror or error}. Make one with: fedsim keys init --folder {folder.root}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _new_node(
    folder: KeyFolder,
    authority: Credential,
    profile: Profile,
    name: str,
    number: int,
    *,
    now: datetime,
    days: int,
) -> Node:
    """Write the keys of a node; return its entry in the allow-list."""
    credential = _issued(authority, name, [name], now, days, is_server=False)
    secret, (login, public) = Secret(profile, random_key()), new_login()
    path = folder.node(name)
    make_private_folder(path)
    write_secret(path / "tls.key", credential.key)
    write_secret(path / "tls.crt", credential.certificate)
    write_secret(path / "supernode.key", login)
    write_secret(path / "supernode.pub", public)
    write_secret(path / "ca.crt", authority.certificate)
    write_identity(path / "identity.key", secret)
    fingerprint = describe(credential.certificate).fingerprint
    return Node(number, name, secret.public, fingerprint, login_fingerprint(public))


def _issued(
    authority: Credential,
    subject: str,
    names: Sequence[str],
    now: datetime,
    days: int,
    *,
    is_server: bool = True,
) -> Credential:
    purpose: Purpose = "server" if is_server else "node"
    try:
        return issue(authority, subject, names, purpose, now=now, days=days)
    except CryptoError as error:
        raise ConfigError([Problem("--host", ", ".join(names), str(error))]) from error


def _must_be_listed(identities: Identities, name: str) -> Node:
    node = identities.find(name)
    if node is None:
        known = ", ".join(each.name for each in identities.nodes) or "none yet"
        raise ConfigError([Problem("NODE", name, f"a node on the list: {known}")])
    return node


def _serial(folder: KeyFolder, name: str, now: datetime) -> dict[int, datetime]:
    """Return the serial number of a node's certificate; nothing where that is gone."""
    path = folder.node(name) / "tls.crt"
    return {describe(read_public(path)).serial: now} if path.exists() else {}


def _revoke_certificates(
    folder: KeyFolder,
    authority: Credential,
    serials: dict[int, datetime],
    number: int,
    now: datetime,
) -> None:
    content = revocation_list(authority, serials, number=number, now=now)
    write_secret(folder.authority / "ca.crl", content)


def _publish(
    folder: KeyFolder, authority: Credential, identities: Identities, now: datetime
) -> None:
    """Sign the next version of the allow-list."""
    new = replace(identities, version=identities.version + 1, issued=_text(now))
    write_secret(folder.identities, signed(new, authority.key))


def _text(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
