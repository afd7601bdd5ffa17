"""`fedsim keys`: an authority, TLS certificates, identities for secure sums, keys for storage."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._output import Json, Runs, print_json, print_table

__all__ = ["app"]

app = typer.Typer(
    help="Make and manage the keys of a federation: TLS, identities, sealed storage.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="Where the keys are (default: keys).")
]
Node = Annotated[str, typer.Argument(metavar="NODE", help="The name of a node.")]
Days = Annotated[
    int, typer.Option("--days", min=1, max=3650, help="How long TLS certificates hold.")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="NAME|IP", help="What the server is reached by; once for each name."
    ),
]
KEYS, YEAR = Path("keys"), 365


@app.command()
def init(
    folder: Folder = KEYS,
    host: Hosts = None,
    profile: Annotated[str, typer.Option(help="standard (Ed25519) or fips (P-256).")] = "standard",
    days: Days = YEAR,
    authority_days: Annotated[
        int, typer.Option("--ca-days", min=1, max=36500, help="How long the authority holds.")
    ] = 10 * YEAR,
    as_json: Json = False,
) -> None:
    """Make a folder of keys: an authority, the server's TLS, an allow-list, a storage key."""
    from fedsim import keys
    from fedsim.errors import ConfigError, Problem

    if profile not in ("standard", "fips"):
        raise ConfigError([Problem("--profile", profile, "standard or fips")])
    made = keys.init(
        folder,
        profile="fips" if profile == "fips" else "standard",
        hosts=host or keys.HOSTS,
        now=_now(),
        days=days,
        authority_days=authority_days,
    )
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **keys.contents(made, _now())})
        return
    print(f"{made.authority / 'ca.crt'}  the authority's certificate: for everybody")
    print(f"{made.authority / 'ca.key'}  its key: keep it off the server")
    print(f"{made.server}  TLS of the server, for {', '.join(host or keys.HOSTS)}")
    print(f"{made.storage}  key for sealed storage, for all machines of a run:")
    print(f"    export FEDSIM_STORAGE_KEY_FILE={made.storage.absolute()}")
    print(f"next: fedsim keys add NODE{_option(folder)}")


@app.command()
def add(
    node: Node,
    folder: Folder = KEYS,
    number: Annotated[
        int | None,
        typer.Option("--id", help="Its number among clients (default: the next free one)."),
    ] = None,
    days: Days = YEAR,
    as_json: Json = False,
) -> None:
    """Make the keys of a node and put it on the allow-list."""
    from fedsim import keys

    place = keys.KeyFolder(folder)
    _say_changed(place, keys.add(place, node, id=number, now=_now(), days=days), as_json)


@app.command()
def rotate(
    what: Annotated[
        str, typer.Argument(metavar="NODE|server|storage", help="Whose keys to replace.")
    ],
    folder: Folder = KEYS,
    host: Hosts = None,
    days: Days = YEAR,
    runs: Runs = None,
    forget_old: Annotated[
        bool, typer.Option("--forget-old", help="Of storage: delete the keys before the new one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Replace the keys of a node or the server, or the key of sealed storage.

    Sealed files of the run store (--runs) are not encrypted anew: the keys inside them are wrapped
    under the new key.
    """
    from fedsim import keys

    place = keys.KeyFolder(folder)
    if what == "storage":
        _rotate_storage(place, runs, forget_old=forget_old, as_json=as_json)
    elif what == "server":
        keys.rotate_server(place, hosts=host or (), now=_now(), days=days)
        if as_json:
            print_json({"status": "ok", "exit_code": 0, **keys.contents(place, _now())})
        else:
            print(f"{place.server}  new key and certificate; restart the server with them")
    else:
        _say_changed(place, keys.rotate_node(place, what, now=_now(), days=days), as_json)
        if not as_json:
            print(f"the old keys of {what} are no longer on the list; unregister its old SuperNode")


@app.command()
def revoke(node: Node, folder: Folder = KEYS, as_json: Json = False) -> None:
    """Take a node off the allow-list, revoke its certificate and delete its keys here."""
    from fedsim import keys

    place = keys.KeyFolder(folder)
    gone = keys.revoke(place, node, now=_now())
    version = place.load_identities().version
    if as_json:
        found = {"revoked": gone.name, "id": gone.id, "version": version}
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    print(f"{gone.name} (client {gone.id}) is off the list, which is now version {version}")
    print(f"give {place.identities} to every node, and {place.authority / 'ca.crl'} to proxies")
    print("where SuperNodes log in: flwr supernode unregister its node id as well")


@app.command()
def ckks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the key.")],
    as_json: Json = False,
) -> None:
    """Make the one key that all clients of secure_sum.name=ckks have; it opens every update."""
    from fedsim.errors import ConfigError, Problem
    from fedsim.files import write_secret
    from fedsim.secagg import ckks as encryption

    if file.exists():
        raise ConfigError([Problem("FILE", str(file), "a new file: a key is never overwritten")])
    content = encryption.new_key()
    write_secret(file, content)
    fingerprint = encryption.open_key(content).fingerprint.hex()
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "file": str(file), "fingerprint": fingerprint})
        return
    print(f"{file}  key of all clients, fingerprint {fingerprint}")
    print("give it to every node, as ckks-key in its node config, and to the server never")
    print(f"trusted: {encryption.TRUST}")


@app.command()
def pseudonym(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the key.")],
    as_json: Json = False,
) -> None:
    """Make the secret that pseudonyms are made with; clients who share it agree on pseudonyms."""
    from fedsim.anonymize.pseudonym_keys import FILE_VARIABLE, PseudonymKeys, new_key_file
    from fedsim.errors import ConfigError, Problem
    from fedsim.files import write_secret

    if file.exists():
        raise ConfigError([Problem("FILE", str(file), "a new file: a key is never overwritten")])
    write_secret(file, new_key_file())
    fingerprint = PseudonymKeys.read(file).fingerprint
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "file": str(file), "fingerprint": fingerprint})
        return
    print(f"{file}  pseudonym key, fingerprint {fingerprint}")
    print("keep it apart from the records; whoever has it can link pseudonyms to people")
    print("give it to another client only if equal people are to have equal pseudonyms there:")
    print(f"    export {FILE_VARIABLE}={file.absolute()}")


@app.command()
def show(folder: Folder = KEYS, as_json: Json = False) -> None:
    """List subjects, fingerprints and when certificates end; never a private key."""
    from fedsim import keys

    found: dict[str, Any] = keys.contents(keys.KeyFolder(folder), _now())
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    columns = ["kind", "name", "fingerprint", "ends", "status"]
    rows = [[entry[column] for column in columns] for entry in found["keys"]]
    print_table(columns, rows)
    nodes = f"{found['nodes']} node{'s' if found['nodes'] != 1 else ''}"
    print(f"allow-list: version {found['version']} of {found['issued']}, {nodes}")
    print(f"profile: {found['profile']}")


def _say_changed(place: Any, node: Any, as_json: bool) -> None:
    """Say where a node's new keys are and what its fingerprints are."""
    import hashlib

    version = place.load_identities().version
    identity = hashlib.sha256(node.identity).hexdigest()
    if as_json:
        facts = {"node": node.name, "id": node.id, "version": version, "identity": identity}
        files = {"folder": str(place.node(node.name)), "certificate": node.certificate}
        print_json({"status": "ok", "exit_code": 0, **facts, **files})
        return
    print(f"{node.name} is client {node.id}; the allow-list is now version {version}")
    print(f"identity     sha256 {identity}")
    print(f"certificate  sha256 {node.certificate}")
    print(f"give {place.node(node.name)} to the node, and {place.identities} to every node")
    print(f"Flower: flwr supernode register {place.node(node.name) / 'supernode.pub'}")


def _rotate_storage(place: Any, runs: str | None, *, forget_old: bool, as_json: bool) -> None:
    from fedsim import keys
    from fedsim.errors import RunFailedError
    from fedsim.run_files import rewrap_all
    from fedsim.store import RunStore

    root = RunStore(runs).root
    found = keys.new_storage_key(place)
    made = rewrap_all(root, found)
    if made.running and forget_old:
        raise RunFailedError(
            f"the old storage keys are kept: {', '.join(made.running)} in {root} is going on and "
            f"still sealed with them. Afterwards: fedsim keys rotate storage --forget-old"
        )
    if forget_old:
        found = keys.only_newest_storage_key(place)
    if as_json:
        facts = {"key": found.current, "rewrapped": made.done, "running": list(made.running)}
        print_json({"status": "ok", "exit_code": 0, **facts, "keys": list(found.keys)})
        return
    print(f"{place.storage}  new key {found.current}, {len(found.keys)} in the file")
    print(f"{root}  {made.done} sealed files have it now")
    for run in made.running:
        print(f"{run} is going on and keeps its key: rotate again when it has ended")


def _now() -> datetime:
    return datetime.now(UTC)


def _option(folder: Path) -> str:
    return "" if folder == KEYS else f" --folder {folder}"
