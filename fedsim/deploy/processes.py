"""Flower's programs as processes of ours: started with what they need, ended with all they started.

Each gets a session of its own, so that it and its children are ended together, and is told by the
system when we die. Flower's telemetry, its look for updates and its installing of an app's
dependencies at run time are off; its state is in a folder of the bundle.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fedsim.errors import SetupError

__all__ = ["Processes", "environment", "free_ports", "node_config_text", "start_warm",
           "stopping", "superlink", "supernode", "wait_warm"]  # fmt: skip

_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
_POLL_S = "0.1"  # how often a SuperExec asks for work
_TO_END_S = 15.0
_KILLED_S = 5.0  # until what was killed is gone
_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(slots=True)
class Processes:
    """Processes that end together. `logs`: the folder of what they print; None: where we print."""

    logs: Path | None = None
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process under a name."""
        output: Any = (self.logs / f"{name}.log").open("ab") if self.logs else None
        try:
            self.running[name] = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # we have no other threads then
            )
        except OSError as error:
            raise SetupError(f"cannot start {command[0]}: {error.strerror or error}") from error
        finally:
            if output:
                output.close()

    def must_run(self) -> None:
        """Raise `SetupError` where a process has ended by itself, with the end of what it said."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise SetupError(f"{name} ended with status {process.returncode}{self.tail(name)}")

    def tail(self, name: str, size: int = 2000) -> str:
        """Return the end of what a process said, where that is in a file."""
        path = self.logs / f"{name}.log" if self.logs else None
        if path is None or not path.exists():
            return ""
        return ":\n" + path.read_text(encoding="utf-8", errors="replace")[-size:]

    def stop(self, *names: str, seconds: float = _TO_END_S) -> None:
        """End processes, all unless named, and whatever they started; by force in the end."""
        chosen = {name: self.running[name] for name in names or tuple(self.running)}
        for process in chosen.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for name, process in chosen.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            while _group_lives(process) and time.monotonic() < deadline:
                time.sleep(0.05)
            _signal(process, signal.SIGKILL)
            process.wait()
            killed = time.monotonic() + _KILLED_S
            while _group_lives(process) and time.monotonic() < killed:
                time.sleep(0.01)
            del self.running[name]


@contextmanager
def stopping(processes: Processes) -> Iterator[Processes]:
    """Stop processes at the end, whatever the end is; SIGTERM is taken for Ctrl-C meanwhile."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield processes
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: we are at it
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            processes.stop()
        finally:
            signal.signal(signal.SIGINT, interrupted)
            signal.signal(signal.SIGTERM, before)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process of Flower's with its state in `home`."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {"FLWR_HOME": str(home), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL_S, "PATH": path}
    return {**os.environ, **_OFF, **own, **more}


def start_warm(place: Path, home: Path, processes: Processes, programs: Sequence[str]) -> Path:
    """Start the process that has programs loaded and forks for each call; return its socket.

    One serves all of one owner's on a machine.
    """
    own = environment(home, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    command = [sys.executable, "-m", "fedsim.deploy.warm", str(place), *programs]
    processes.start("apps", command, own)
    return place


def wait_warm(place: Path, processes: Processes, seconds: float = 300.0) -> None:
    """Wait until that process has loaded everything: Flower waits half a minute for an app.

    Raises `SetupError` where it ends before, or takes longer.
    """
    deadline, ready = time.monotonic() + seconds, Path(f"{place}.ready")
    while not ready.exists():
        processes.must_run()
        if time.monotonic() > deadline:
            raise SetupError(f"the process for apps is not ready after {seconds:g} s")
        time.sleep(0.1)


def superlink(host: str, port: int, database: Path, tls: Path | None) -> list[str]:
    """Return the command of a SuperLink; `tls`: the folder with its key, None: without TLS."""
    command = [_program("flower-superlink"), "--host", host, "--port", str(port)]
    command += ["--database", str(database), "--disable-runtime-dependency-installation"]
    if tls is None:
        return [*command, "--insecure"]
    return [
        *command,
        "--ssl-ca-certfile", str(tls / "ca.crt"),
        "--ssl-certfile", str(tls / "server.crt"),
        "--ssl-keyfile", str(tls / "server.key"),
        "--enable-supernode-auth",
    ]  # fmt: skip


def supernode(address: str, port: int, node_config: str, tls: Path | None) -> list[str]:
    """Return the command of a SuperNode; `tls`: the folder with ca.crt and its login key."""
    command = [_program("flower-supernode"), "--superlink", address, "--port", str(port)]
    command += ["--node-config", node_config]
    if tls is None:
        return [*command, "--insecure"]
    return [
        *command,
        "--root-certificates", str(tls / "ca.crt"),
        "--auth-supernode-private-key", str(tls / "supernode.key"),
    ]  # fmt: skip


def node_config_text(settings: Mapping[str, str | int | float]) -> str:
    """Return a node config as Flower's command line takes it.

    >>> node_config_text({"partition-id": 0, "node-folder": "/srv/a b"})
    'partition-id=0 node-folder="/srv/a b"'
    """
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _program(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise SetupError(f"{name} is missing beside {sys.executable}: install fedsim with Flower")
    return str(path)


def _die_with_parent() -> None:
    with suppress(OSError, AttributeError):  # not on Linux: a killed parent leaves its children
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
