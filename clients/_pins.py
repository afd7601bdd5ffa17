"""What a node remembers of the records that it has let out: no second cut of them, in any run.

A node whose config names a folder (`anonymization-pins`, or `node-folder`, which has it as `pins`)
keeps a pin of every release there, as `fedsim anonymize` does beside its input.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsim.anonymize import pins as pinning
from fedsim.anonymize.gather import row_hashes
from fedsim.anonymized import SharedCut
from fedsim.clients._quiet import LostClientError
from fedsim.errors import FedsimError

__all__ = ["pin"]

_FOLDER, _NODE, _NAME = "anonymization-pins", "node-folder", "pins"


def pin(clients: SharedCut, client: int, node_config: Mapping[str, Any]) -> None:
    """Write down a client's release by its cut, before anything is trained on it.

    Raises `LostClientError` where some of its rows were let out under another cut, and for a folder
    that cannot be used.
    """
    folder = _folder(node_config)
    if folder is None:
        return
    try:
        _pin(clients, client, folder)
    except FedsimError as error:
        raise LostClientError(f"pins of released rows: {error}") from error


def _folder(node_config: Mapping[str, Any]) -> Path | None:
    if given := node_config.get(_FOLDER):
        return Path(str(given))
    node = node_config.get(_NODE)
    return Path(str(node)) / _NAME if node else None


def _pin(clients: SharedCut, client: int, folder: Path) -> None:
    own, cut = clients.rows, clients.cut
    assert cut is not None
    pins = pinning.open_pins(folder)
    frame, subject = clients.frame(client), own.schema.subject
    names = [subject] if subject else sorted(map(str, frame.columns))
    people = row_hashes(frame, names, pins.key)
    protection = pinning.protection_of(own.protection, cut.how, 0.0)
    found = pinning.Pin(
        schema=own.schema.fingerprint(),
        protection=protection | {"cut": own.settings.cut, "k_over": cut.k_over},
        cut=cut.fingerprint(),
        rows=pinning.row_set_hash(people),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        released=hashlib.sha256(clients.train(client).x.tobytes()).hexdigest(),
    )
    if others := [one for one in pins.having(people) if one.cut != found.cut]:
        raise LostClientError(
            f"rows of this client were let out on {others[-1].created} under another cut; the two, "
            "side by side, narrow people down"
        )
    pins.record(found, people)
