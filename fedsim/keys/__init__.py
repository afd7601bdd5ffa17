"""Keys of a federation: an authority, TLS, identities for secure sums, and keys for storage."""

from fedsim.keys._folder import (
    HOSTS,
    RESERVED,
    KeyFolder,
    add,
    init,
    new_storage_key,
    only_newest_storage_key,
    revoke,
    rotate_node,
    rotate_server,
)
from fedsim.keys._identities import (
    NAME,
    Identities,
    Node,
    Revoked,
    Secret,
    load_identities,
    load_latest,
    read_identity,
)
from fedsim.keys._show import contents

__all__ = [
    "HOSTS",
    "NAME",
    "RESERVED",
    "Identities",
    "KeyFolder",
    "Node",
    "Revoked",
    "Secret",
    "add",
    "contents",
    "init",
    "load_identities",
    "load_latest",
    "new_storage_key",
    "only_newest_storage_key",
    "read_identity",
    "revoke",
    "rotate_node",
    "rotate_server",
]
