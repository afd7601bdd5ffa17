"""What is in a folder of keys: subjects, fingerprints, when they end; never a private key."""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedsim.certificates import describe
from fedsim.files import read_public
from fedsim.keys._folder import KeyFolder
from fedsim.sealing import StorageKeys

__all__ = ["Entry", "contents"]

_SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a folder. `fingerprint`: SHA-256, or the id of a storage key."""

    kind: str
    name: str
    fingerprint: str
    ends: str
    status: str


def contents(folder: KeyFolder, now: datetime) -> dict[str, object]:
    """Return everything there is to say about a folder of keys."""
    listed, authority = folder.load_identities(), folder.load_authority()
    entries = [
        _certificate("authority", "ca", authority.certificate, now),
        _certificate("server", "server", read_public(folder.server / "server.crt"), now),
    ]
    for node in listed.nodes:
        path = folder.node(node.name) / "tls.crt"
        if path.exists():
            entries.append(_certificate("node", node.name, read_public(path), now))
        digest = hashlib.sha256(node.identity).hexdigest()
        entries.append(Entry("identity", node.name, digest, "", f"client {node.id}"))
        entries.append(Entry("supernode", node.name, node.login, "", "to be registered"))
    for gone in listed.revoked:
        entries.append(Entry("identity", gone.name, "", gone.since, f"client {gone.id}, revoked"))
    entries += _storage(folder.storage)
    return {
        "folder": str(folder.root),
        "profile": listed.profile,
        "version": listed.version,
        "issued": listed.issued,
        "nodes": len(listed.nodes),
        "keys": [asdict(entry) for entry in entries],
    }


def _certificate(kind: str, name: str, pem: bytes, now: datetime) -> Entry:
    facts = describe(pem)
    status = ", ".join(facts.names)
    if facts.ends < now:
        status = "expired"
    elif facts.ends - now < _SOON:
        status = f"ends in {(facts.ends - now).days} days"
    return Entry(kind, name, facts.fingerprint, facts.ends.strftime("%Y-%m-%d"), status)


def _storage(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    keys = StorageKeys.read(path)
    return [
        Entry("storage", path.name, name, "", "seals" if name == keys.current else "opens")
        for name in keys.keys
    ]
