"""A SuperLink of one's own, with TLS and SuperNode login, and clients that are a SuperNode's loop.

Shared by the load benchmark and by tests of bad networks. A real SuperNode is a process that starts
another one for every message; two hundred of those are more than one machine has memory for. A
client here is what of a SuperNode meets the SuperLink: its key and login, its TLS connection,
heartbeats, pulling and pushing of messages and objects, by Flower's own code; the ClientApp is
called in this process.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from fedsim import keys

APP = Path(__file__).resolve().parents[1] / "deploy" / "flower_app"
BIN = Path(sys.executable).parent
POLL_S = 3.0  # how often an idle SuperNode asks
_TRIES = 100
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
}


class SuperLink:
    """A running SuperLink, the keys of its nodes, and Flower's commands to it.

    `host`, `port`: where it listens, and what its certificate says. `prefix`: what every command
    begins with, e.g. `ip netns exec NAME`, to run on another host of this machine.
    """

    def __init__(self, folder: Path, host: str, port: int, prefix: Sequence[str] = ()) -> None:
        self.folder, self.address, self.prefix = folder, f"{host}:{port}", tuple(prefix)
        now = datetime.now(UTC).replace(microsecond=0)
        self.keys = keys.init(
            folder / "keys", profile="standard", hosts=[host], now=now, days=30, authority_days=30
        )
        self.certificate = self.keys.authority / "ca.crt"
        self.environment = {**os.environ, **OFFLINE, "FLWR_HOME": str(folder / "home")}
        self.environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self.address}"\n'
            f'root-certificates = "{self.certificate}"\n'
        )
        self._started: list[subprocess.Popen[bytes]] = []
        tls = self.keys.server
        self.process = self.start(
            "flower-superlink", "--host", host, "--port", port, "--ssl-ca-certfile",
            self.certificate, "--ssl-certfile", tls / "server.crt", "--ssl-keyfile",
            tls / "server.key", "--enable-supernode-auth",
        )  # fmt: skip

    def start(
        self, program: str, *arguments: object, prefix: Sequence[str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs; its output goes to a log in the folder."""
        before = self.prefix if prefix is None else prefix
        log = self.folder / f"{len(self._started)}-{program}.log"
        command = [*before, str(BIN / program), *map(str, arguments)]
        with log.open("w") as file:
            running = subprocess.Popen(
                command, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        self._started.append(running)
        return running

    def flwr(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `flwr` to its end."""
        command = [*self.prefix, str(BIN / "flwr"), *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def wait_until_up(self, seconds: float = 180.0) -> None:
        """Wait until it answers an operator; raise with its log where it does not."""
        deadline = time.monotonic() + seconds
        while self.flwr("supernode", "ls", "here").returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(self.logs())
            time.sleep(1)

    def add(self, name: str) -> Path:
        """Make a node's keys, and register it by the command; return the folder of its keys."""
        keys.add(self.keys, name, now=datetime.now(UTC).replace(microsecond=0), days=30)
        own = self.keys.node(name)
        done = self.flwr("supernode", "register", own / "supernode.pub", "here", "--name", name)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return own

    def run(self, overrides: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        """Submit an experiment; each round becomes a line of JSON in `output`."""
        config = f'overrides="{" ".join(overrides)}" output="{output}"'
        return self.start("flwr", "run", APP, "here", "--stream", "--run-config", config)

    def logs(self, characters: int = 3000) -> str:
        """Return the end of everybody's log."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-characters:]}" for path in found)

    def stop(self) -> None:
        """End everything that was started, and what that has started."""
        for running in self._started:
            if running.poll() is None:
                own = psutil.Process(running.pid)
                for process in [*own.children(recursive=True), own]:
                    try:
                        process.kill()
                    except psutil.NoSuchProcess:
                        continue
            running.wait()


@contextmanager
def superlink(
    folder: Path, host: str, port: int, prefix: Sequence[str] = ()
) -> Iterator[SuperLink]:
    """Start a SuperLink and wait until it is up; whatever happens, nothing is left of it."""
    made = SuperLink(folder, host, port, prefix)
    try:
        made.wait_until_up()
        yield made
    finally:
        made.stop()


def rounds(output: Path) -> list[dict[str, Any]]:
    """Return the rounds that are done so far."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


class Clients:
    """Many clients in this process, each with a key and a connection of its own."""

    def __init__(self, address: str, certificate: Path, count: int) -> None:
        from flwr.supercore.primitives.asymmetric import generate_key_pairs

        self._address, self._certificate = address, certificate.read_bytes()
        self._keys = [generate_key_pairs() for _ in range(count)]
        self._stop, self.handled, self.failed = threading.Event(), 0, list[str]()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._live, args=(number,), daemon=True)
            for number in range(count)
        ]

    def register(self) -> None:
        """Put all keys on the server's list, as `flwr supernode register` does for one."""
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        client = ControlHttpClient.from_server_address(
            self._address, False, self._certificate, interceptors=[]
        )
        for number, (_, public) in enumerate(self._keys):
            client.RegisterNode(
                RegisterNodeRequest(public_key=public_key_to_bytes(public), name=f"node-{number}")
            )
        client.close()

    def start(self) -> None:
        """Connect all."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Disconnect all, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, number: int) -> None:
        try:
            with ExitStack() as stack:
                calls = self._connected(number, stack)
                client = _Client(number, len(self._threads), calls)
                while not self._stop.is_set():
                    if client.answer_one():
                        with self._lock:
                            self.handled += 1
                    else:
                        self._stop.wait(POLL_S)
        except Exception as error:  # of one client: counted, and the others go on
            with self._lock:
                self.failed.append(f"client {number}: {error!r}")

    def _connected(self, number: int, stack: ExitStack) -> tuple[Any, ...]:
        """Connect a client; again, like whoever watches over a SuperNode, where Flower gives up."""
        from flwr.supernode.fleet_http_connection import http_request_response

        for _ in range(_TRIES):
            connection = http_request_response(
                self._address, False, self._certificate, self._keys[number]
            )
            try:
                with _FEW_AT_ONCE:
                    return stack.enter_context(connection)
            except SystemExit:  # a handshake took more than five seconds
                self._stop.wait(POLL_S)
        raise RuntimeError("no connection to the server")


class _Client:
    """One client on its connection: a message in, the ClientApp, a message out."""

    def __init__(self, number: int, count: int, calls: tuple[Any, ...]) -> None:
        self._config = {"partition-id": number, "num-partitions": count}
        self._node, self._receive, self._send, self._get_run, self._get_fab = calls[:5]
        self._pull, self._push, self._confirm = calls[5:]
        self._contexts: dict[int, Any] = {}

    def answer_one(self) -> bool:
        """Pull a message, answer it, push the answer; False where there was none."""
        from flwr.app import Message
        from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree

        received = self._receive()
        if received is None:
            return False
        head, tree = received
        run = head.metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree,
            lambda name: self._pull(run, name),
            lambda name: self._confirm(run, name),
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        context = self._context(run)
        started = time.monotonic()
        with _ONE_AT_A_TIME:
            reply = _client_app()(message, context)
        self._reply(reply, run, time.monotonic() - started)
        return True

    def _reply(self, reply: Any, run: int, seconds: float) -> None:
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
        )
        from flwr.supercore.inflatable.inflatable_utils import push_objects

        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        wanted, session = self._send(reply, get_object_tree(reply), seconds)
        push_objects(
            objects,
            lambda name, content: self._push(run, session, name, content),
            object_ids_to_push=wanted,
        )

    def _context(self, run: int) -> Any:
        from flwr.app import Context, RecordDict
        from flwr.common.config import get_fused_config_from_fab

        if run not in self._contexts:
            about = self._get_run(run)
            config: Mapping[str, Any] = get_fused_config_from_fab(
                self._get_fab(about.fab_hash, run).content, about
            )
            self._contexts[run] = Context(
                run_id=run, node_id=self._node, node_config=self._config, state=RecordDict(),
                run_config=dict(config),
            )  # fmt: skip
        return self._contexts[run]


# Flower gives a handshake five seconds; two hundred at once on two cores take longer.
_FEW_AT_ONCE = threading.Semaphore(4)

# A ClientApp has a process to itself elsewhere; here clients share its model, so they take turns.
_ONE_AT_A_TIME = threading.Lock()


@cache
def _client_app() -> Any:
    """Return the ClientApp of `deploy/flower_app`, made once."""
    from fedsim.deployment import make_client_app

    return make_client_app()
