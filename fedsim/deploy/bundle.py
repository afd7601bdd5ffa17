"""Folders for the operators of a federation: one for the server, one for each node, one to submit.

    server/      TLS key and certificate, the nodes' public login keys, server.toml
    nodes/NAME/  login and identity keys, everybody's public ones, node.toml, policy.toml...
    operator/    the key that approves experiments, the authority (keys/), operator.toml

Each is complete in itself and is carried to its machine; no secret is in two of them. Everything is
readable by its owner alone.
"""

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import tomli_w

from fedsim import keys
from fedsim.crypto import Profile, random_key, suite
from fedsim.deploy._readme import NODE_README, OPERATOR_README, SERVER_README
from fedsim.deploy.settings import NODE, OPERATOR, SERVER
from fedsim.errors import ConfigError, Problem, SetupError
from fedsim.files import make_private_folder, read_public, read_secret, write_secret
from fedsim.keys import KeyFolder
from fedsim.node.approval import Approver, approvers_text
from fedsim.node.policy import template

__all__ = ["APPROVAL", "LOGINS", "Bundle", "Plan", "init", "read_approval"]

APPROVAL = "approval.key"
#: Folder of the server's with the public login keys of nodes.
LOGINS = "logins"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_FIRST_PORT = 9094
#: What a node needs of those files that `fedsim keys` makes; its TLS certificate has no use here.
_OF_NODE = ("identity.key", "supernode.key")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make: the nodes' names, how the server is reached, how long things hold."""

    nodes: tuple[str, ...]
    address: str = "localhost"
    port: int = 8000
    profile: Profile = "standard"
    days: int = 365
    authority_days: int = 3650
    approver: str = "operator"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where the folders of a federation are."""

    root: Path

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.root / "server"

    @property
    def operator(self) -> Path:
        """The folder of who submits."""
        return self.root / "operator"

    @property
    def keys(self) -> KeyFolder:
        """The folder of keys: the authority, and what it certified."""
        return KeyFolder(self.operator / "keys")

    def node(self, name: str) -> Path:
        """Return a node's folder."""
        return self.root / "nodes" / name


def init(root: Path, plan: Plan, *, now: datetime) -> Bundle:
    """Make the folders of a federation.

    Raises `ConfigError` for a folder that has something in it already, for nodes' names that are
    none, and for an address that is none; `SetupError` where nothing can be written.
    """
    _must_fit(root, plan)
    bundle = Bundle(root)
    for folder in (root, bundle.server, bundle.operator, root / "nodes"):
        make_private_folder(folder)
    made = keys.init(
        bundle.keys.root,
        profile=plan.profile,
        hosts=tuple(dict.fromkeys((plan.address, *_LOCAL))),
        now=now,
        days=plan.days,
        authority_days=plan.authority_days,
    )
    for name in plan.nodes:
        keys.add(made, name, now=now, days=plan.days)
    seed = random_key()
    write_secret(bundle.operator / APPROVAL, base64.b64encode(seed) + b"\n")
    approver = Approver(
        plan.approver, suite("standard").signing_public(seed), None, now + timedelta(days=plan.days)
    )
    approvers = approvers_text({plan.approver: approver}).encode()
    _write_server(bundle, plan)
    for number, name in enumerate(plan.nodes):
        _write_node(bundle, plan, number, name, approvers)
    _write_operator(bundle, plan)
    return bundle


def read_approval(folder: Path) -> bytes:
    """Return the secret key that approves experiments.

    Raises `SetupError` where there is none, or where others than its owner can read it.
    """
    path = folder / APPROVAL
    try:
        seed = base64.b64decode(read_secret(path), validate=False)
    except ValueError as error:
        raise SetupError(f"{path} holds no approval key") from error
    if len(seed) != len(random_key()):
        raise SetupError(f"{path} holds no approval key: it has {len(seed)} bytes")
    return seed


def _must_fit(root: Path, plan: Plan) -> None:
    problems = []
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        accepted = "a new folder, or an empty one: keys are never overwritten"
        problems.append(Problem("DIR", str(root), accepted))
    if not plan.nodes:
        problems.append(Problem("--nodes", "", "one name at least, such as a,b,c"))
    twice = sorted({name for name in plan.nodes if plan.nodes.count(name) > 1})
    if twice:
        problems.append(Problem("--nodes", ",".join(twice), "each name once"))
    for name in plan.nodes:
        if not keys.NAME.fullmatch(name) or name in keys.RESERVED:
            accepted = "names of letters a-z, digits and hyphens, at most 63; not " + ", ".join(
                keys.RESERVED
            )
            problems.append(Problem("--nodes", name, accepted))
    if problems:
        raise ConfigError(problems)


def _write_server(bundle: Bundle, plan: Plan) -> None:
    made, folder = bundle.keys, bundle.server
    for name in ("server.key", "server.crt"):
        _move(made.server / name, folder / name, keep=name == "server.crt")
    _copy(made.authority / "ca.crt", folder / "ca.crt")
    _copy(made.identities, folder / "identities.json")
    _move(made.storage, folder / "storage.key")
    make_private_folder(folder / LOGINS)
    for name in plan.nodes:
        _copy(made.node(name) / "supernode.pub", folder / LOGINS / f"{name}.pub")
    listen = "127.0.0.1" if plan.address in _LOCAL else "0.0.0.0"  # nodes are elsewhere
    content = {"server": {"listen": listen, "port": plan.port, "runs": "runs", "data_dir": ""}}
    write_secret(folder / SERVER, tomli_w.dumps(content).encode())
    write_secret(folder / "README.md", SERVER_README.encode())


def _write_node(bundle: Bundle, plan: Plan, number: int, name: str, approvers: bytes) -> None:
    made, folder = bundle.keys, bundle.node(name)
    make_private_folder(folder)
    for file in _OF_NODE:
        _move(made.node(name) / file, folder / file)
    (made.node(name) / "tls.key").unlink()
    _copy(made.authority / "ca.crt", folder / "ca.crt")
    _copy(made.identities, folder / "identities.json")
    for part in ("ledger", "pins", "code"):
        make_private_folder(folder / part)
    content = {
        "node": {
            "name": name,
            "number": number,
            "clients": len(plan.nodes),
            "address": f"{plan.address}:{plan.port}",
            "port": _FIRST_PORT + (number if plan.address in _LOCAL else 0),
        }
    }
    text = tomli_w.dumps(content) + _DATA
    write_secret(folder / NODE, text.encode())
    write_secret(folder / "policy.toml", template().encode())
    write_secret(folder / "approvers.toml", approvers)
    write_secret(folder / "README.md", NODE_README.format(name=name).encode())


def _write_operator(bundle: Bundle, plan: Plan) -> None:
    folder = bundle.operator
    _copy(bundle.keys.authority / "ca.crt", folder / "ca.crt")
    content = {"operator": {"address": f"{plan.address}:{plan.port}"}}
    write_secret(folder / OPERATOR, tomli_w.dumps(content).encode())
    write_secret(folder / "README.md", OPERATOR_README.encode())


def _copy(source: Path, target: Path) -> None:
    write_secret(target, read_public(source))


def _move(source: Path, target: Path, *, keep: bool = False) -> None:
    _copy(source, target)
    if not keep:
        source.unlink()


_DATA = """
# This node's own rows, and nobody else's: a .csv, .tsv or .parquet file.
# [data]
# path = "/srv/patients.csv"
"""
