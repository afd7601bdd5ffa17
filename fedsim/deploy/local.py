"""A whole federation on this machine: made, run and taken down by one command.

Keys and certificates are made for it in a temporary folder; server and nodes are processes that
talk over TLS and log in with keys, as on machines of their own. Nodes let anything run that this
command has signed: it is for trying out what a deployed run does, not for keeping data apart.
"""

import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.deploy.bundle import Bundle, Plan, init
from fedsim.deploy.control import Control, connected
from fedsim.deploy.node import start_node
from fedsim.deploy.processes import Processes, free_ports, start_warm, stopping, wait_warm
from fedsim.deploy.server import start_server
from fedsim.deploy.settings import NODE, SERVER
from fedsim.deploy.submit import approved, prepared, submit
from fedsim.deploy.warm import CLIENT
from fedsim.deploy.warm import SERVER as APP
from fedsim.errors import ConfigError, Interrupted, Problem, UnknownRunError
from fedsim.events import Event, RunStarted, Stage
from fedsim.files import write_secret
from fedsim.session import Listener, Result

__all__ = ["LocalFederation", "federation", "run_local"]

_MOST_NODES = 1000


@dataclass(frozen=True, slots=True)
class LocalFederation:
    """A federation that runs: its folders, its processes, and how to reach its server."""

    bundle: Bundle
    processes: Processes
    address: str

    @property
    def certificate(self) -> Path:
        """Return the authority's certificate."""
        return self.bundle.operator / "ca.crt"

    @property
    def warm(self) -> Path:
        """Return the socket of the process that runs apps."""
        return self.bundle.root / "apps.sock"

    def start_node(self, name: str) -> None:
        """Start a node, or start it again."""
        start_node(self.bundle.node(name), self.processes, warm=self.warm)

    @contextmanager
    def connected(self) -> Iterator[Control]:
        """Connect to the server."""
        with connected(self.address, self.certificate) as control:
            yield control


def run_local(
    experiment: Any,
    overrides: Sequence[str],
    nodes: int,
    *,
    runs: str | None = None,
    data_dir: str | None = None,
    resume: str = "",
    tell: Listener = lambda event: None,
) -> Result:
    """Run an experiment, or go on with the run `resume`, on a federation of this machine.

    Returns what `fedsim.run` does, with the same record in the same store; raises the same, too.
    """
    from fedsim.store import RunStore

    store = RunStore(runs)
    if resume:
        run_id, text, nodes = _stored(store, resume)
    else:
        run_id, text = "", prepared(experiment, overrides, _count(nodes))
    _must_be_public(json.loads(text)["config"])
    begun: list[str] = [run_id] if run_id else []

    def heard(event: Event) -> None:
        if isinstance(event, RunStarted):
            begun[:] = [event.run_id]
        tell(event)

    place = str(store.root) if "://" not in str(runs or os.environ.get("FEDSIM_RUNS") or "") else ""
    with tempfile.TemporaryDirectory(prefix="fedsim-") as folder:
        code = _code(experiment)
        made = _made(Path(folder), nodes, place or str(store.url), data_dir, code, text)
        try:
            with federation(made, tell) as running, running.connected() as control:
                submitted = approved(made.operator, text, run_id)
                found = submit(control, made.operator, submitted, heard)
        except KeyboardInterrupt:
            hint = f"; go on with: fedsim deploy local --resume {begun[0]}" if begun else ""
            raise Interrupted(f"stopped{hint}") from None
    stored = store.get(found.run_id)
    return Result(
        run_id=stored.id,
        status=stored.status,
        metrics=stored.summary["metrics"],
        history=stored.rounds,
        model_sha256=stored.summary["model_sha256"],
        folder=stored.folder,
        report=Path(found.report) if found.report else None,
        stored=stored,
    )


@contextmanager
def federation(bundle: Bundle, tell: Listener) -> Iterator[LocalFederation]:
    """Have the server and the nodes of a bundle run on this machine, and stop them in the end."""
    logs = bundle.root / "logs"
    logs.mkdir(mode=0o700)
    with stopping(Processes(logs)) as processes:
        tell(Stage("starting the server and the nodes, each a process of its own"))
        warm = bundle.root / "apps.sock"
        start_warm(warm, bundle.root / "flwr-home", processes, [CLIENT, APP])
        address = start_server(bundle.server, processes, warm=warm)
        running = LocalFederation(bundle, processes, address)
        for path in sorted((bundle.root / "nodes").iterdir()):
            running.start_node(path.name)
        wait_warm(warm, processes)
        yield running


def _made(root: Path, nodes: int, runs: str, data_dir: str | None, code: str, text: str) -> Bundle:
    """Make the folders of a federation for one run."""
    width = len(str(nodes - 1))
    names = tuple(f"node-{number:0{width}d}" for number in range(nodes))
    server_port, *ports = free_ports(nodes + 1)
    profile = json.loads(text)["config"]["secure_sum"].get("profile", "standard")
    plan = Plan(names, address="127.0.0.1", port=server_port, profile=profile, days=2)
    bundle = init(root / "federation", plan, now=datetime.now(UTC))
    _change(
        bundle.server / SERVER,
        "server",
        {"runs": runs, "data_dir": _absolute(data_dir), "code": [code] if code else []},
    )
    policy = _policy(json.loads(text)["config"])
    threshold = float(json.loads(text)["config"]["secure_sum"].get("threshold", 2 / 3))
    for name, port in zip(names, ports, strict=True):
        folder = bundle.node(name)
        own = {"port": port, "data_dir": _absolute(data_dir), "min_threshold": threshold}
        _change(folder / NODE, "node", own)
        write_secret(folder / "policy.toml", policy)
        if code:
            (folder / "code").rmdir()
            (folder / "code").symlink_to(code)
    return bundle


def _policy(config: dict[str, Any]) -> bytes:
    """Return a policy that lets this experiment run: this command itself has signed it."""
    from fedsim.node.policy import trial

    content = tomllib.loads(trial())
    if ":" in str(config["model"].get("name", "")):
        content["user_code"] = [config["model"]["name"]]
    return tomli_w.dumps(content).encode()


def _must_be_public(config: dict[str, Any]) -> None:
    """Refuse a table of somebody's own: its nodes read a file each, which this command has not."""
    from fedsim.node.rules import PUBLIC

    if (name := config["data"]["name"]) not in PUBLIC:
        accepted = f"one of {', '.join(PUBLIC)}"
        hint = "Rows of your own: fedsim deploy init, and a file for each node in its node.toml."
        raise ConfigError([Problem("data.name", name, accepted, hint)])


def _change(path: Path, table: str, values: dict[str, Any]) -> None:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content[table] = {**content[table], **values}
    write_secret(path, tomli_w.dumps(content).encode())


def _stored(store: Any, run: str) -> tuple[str, str, int]:
    """Return the id, the experiment's text and the number of nodes of a run to go on with."""
    from fedsim.deploy.server_app import SUBMITTED
    from fedsim.node.approval import TEXT

    stored = store.get(run)
    path = stored.folder / SUBMITTED
    if not path.exists():
        raise UnknownRunError(f"run {stored.id} is no run of a federation: fedsim resume {run}")
    text = json.loads(path.read_text(encoding="utf-8"))[TEXT]
    return stored.id, text, int(stored.facts["clients"])


def _count(nodes: int) -> int:
    if not 1 <= nodes <= _MOST_NODES:
        raise ConfigError([Problem("--nodes", nodes, f"1 to {_MOST_NODES}")])
    return nodes


def _code(experiment: Any) -> str:
    path = Path(str(experiment))
    return str(path.resolve().parent) if path.suffix == ".toml" and path.is_file() else ""


def _absolute(path: str | None) -> str:
    found = path or os.environ.get("FEDSIM_DATA")
    return str(Path(found).absolute()) if found else ""
