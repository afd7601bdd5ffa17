"""A SuperLink's Control API: nodes registered, runs started, followed and stopped.

The only place that knows Flower's client of it, which its own `flwr` command uses; that command is
not used because its exit codes do not say how a run ended, and each call of it takes seconds.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import NetworkError, RunFailedError

__all__ = ["Control", "FlowerRun", "RegisteredNode", "connected"]


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node that a SuperLink knows. `status`: "registered", "online", "offline"..."""

    id: int
    name: str
    key: bytes
    status: str


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """A run as Flower sees it. `status`: "pending", "starting", "running", "finished"."""

    id: int
    status: str
    outcome: str
    details: str

    @property
    def has_ended(self) -> bool:
        """Say whether nothing more comes of it."""
        return self.status == "finished"


@dataclass(frozen=True, slots=True)
class Control:
    """A connection to a SuperLink."""

    client: Any

    def let_in(self, public_keys: Sequence[Path]) -> None:
        """Register exactly the nodes with these login keys; what else was, is no longer."""
        from flwr.proto.control_pb2 import RegisterNodeRequest, UnregisterNodeRequest

        wanted = {_key(path): path for path in public_keys}
        known = {node.key: node.id for node in self.nodes()}
        with _explained():
            for key in sorted(wanted.keys() - known.keys()):
                name = wanted[key].stem
                self.client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            for key in sorted(known.keys() - wanted.keys()):
                self.client.UnregisterNode(UnregisterNodeRequest(node_id=known[key]))

    def nodes(self) -> list[RegisteredNode]:
        """Return the nodes that are registered."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with _explained():
            found = self.client.ListNodes(ListNodesRequest()).nodes_info
        return [
            RegisteredNode(node.node_id, node.name, node.public_key, node.status)
            for node in found
            if node.status != "unregistered"
        ]

    def start(self, app: Path, run_config: Mapping[str, Any]) -> int:
        """Submit an app; return Flower's number of the run."""
        import hashlib

        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        with warnings.catch_warnings():  # of what Flower builds with
            warnings.simplefilter("ignore", DeprecationWarning)
            content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(run_config))
        )
        with _explained():
            answer = self.client.StartRun(request)
        if not answer.HasField("run_id"):
            raise RunFailedError("the server did not take the run")
        return int(answer.run_id)

    def runs(self) -> list[FlowerRun]:
        """Return all runs, oldest first."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with _explained():
            found = self.client.ListRuns(ListRunsRequest()).run_dict
        runs = sorted(found.values(), key=lambda run: run.pending_at)
        return [_run(run) for run in runs]

    def run(self, number: int) -> FlowerRun:
        """Return one run."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with _explained():
            found = self.client.ListRuns(ListRunsRequest(run_id=number)).run_dict
        return _run(found[number])

    def lines(self, number: int) -> Iterator[str]:
        """Yield the lines of a run's log as they come, until it has ended."""
        from flwr.proto.control_pb2 import StreamLogsRequest

        rest = ""
        with _explained():
            for part in self.client.StreamLogs(StreamLogsRequest(run_id=number)):
                *lines, rest = (rest + part.log_output).split("\n")
                yield from lines
        if rest:
            yield rest

    def stop(self, number: int) -> bool:
        """Stop a run; False where it had ended."""
        from flwr.proto.control_pb2 import StopRunRequest

        with _explained():
            return bool(self.client.StopRun(StopRunRequest(run_id=number)).success)


@contextmanager
def connected(address: str, certificate: Path | None) -> Iterator[Control]:
    """Connect to the SuperLink at HOST:PORT; `certificate`: the authority's, None without TLS."""
    from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=certificate.read_bytes() if certificate else None,
        interceptors=[
            CliClientHttpInterceptor(),
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
        ],
    )
    try:
        yield Control(client)
    finally:
        with suppress(Exception):
            client.close()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of the connection into ours."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        text = error.response.text[:500]
        raise RunFailedError(f"the server answers {error.response.status_code}: {text}") from error
    except httpx.HTTPError as error:
        raise NetworkError(
            f"cannot reach the server: {error}. Is it running, is the address right, and is its "
            "certificate signed by this authority?"
        ) from error


def _key(path: Path) -> bytes:
    """Return a public key as Flower keeps it."""
    from flwr.cli.supernode.register import try_load_public_key

    return bytes(try_load_public_key(path))


def _run(run: Any) -> FlowerRun:
    status = run.status
    return FlowerRun(run.run_id, status.status, status.sub_status, status.details)
