"""A warm process for the ClientApps of SuperNodes: it has everything loaded, and forks.

Flower starts a process `flwr-clientapp` for every message, which first imports torch and Flower for
seconds. Here `flwr-clientapp` on the SuperNode's path is a small script (`_shim`) that hands its
arguments to a process that has imported all of it; that process forks for each message, so that
messages are as much apart as before. One thread at the time of the fork: what is imported starts
none, and nothing is computed before.
"""

import contextlib
import importlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main", "make_command"]

_REAL = "flwr-clientapp"
_HEAD = 8


def make_command(folder: Path, place: Path) -> None:
    """Write the command `flwr-clientapp` into a folder: it hands over to the socket at `place`."""
    from fedsim.deploy import _shim

    real = Path(sys.executable).parent / _REAL
    words = [sys.executable, "-IS", str(Path(_shim.__file__)), str(place), str(real)]
    command = " ".join(shlex.quote(word) for word in words)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _REAL
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def main(place: Path) -> NoReturn:
    """Import what clients need, then serve at a socket until a signal ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        place.unlink(missing_ok=True)
        server.bind(str(place))
        place.chmod(0o600)
        server.listen(64)  # whoever connects early waits
        work = _loaded()
        children: dict[int, socket.socket] = {}
        server.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                _begin(server, connection, work, children)
            _reap(children)


def _loaded() -> Any:
    """Import Flower's client process and all that our client app uses; return its entry."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    import fedsim.clients.app
    import fedsim.deployment
    import fedsim.privacy.accounting  # noqa: F401 - loaded for those that are forked
    from fedsim import registry

    for module in ("pandas", "dp_accounting.pld.accountant"):  # a node's own rows, and its ledger
        importlib.import_module(module)
    for group in ("strategies", "local", "optimizers", "models", "data"):
        with contextlib.suppress(Exception):
            registry.names(group)
    if threading.active_count() > 1:
        raise RuntimeError(f"threads run before the first fork: {threading.enumerate()}")
    return flwr_clientapp


def _begin(
    server: socket.socket,
    connection: socket.socket,
    work: Any,
    children: dict[int, socket.socket],
) -> None:
    """Fork for a connection; what it asks is read by the child, so that nobody waits for it."""
    child = os.fork()
    if child:
        children[child] = connection
        return
    status = 1
    try:
        server.close()
        for other in children.values():
            other.close()
        status = _work(connection, work)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _work(connection: socket.socket, work: Any) -> int:
    """Take over the arguments and streams of who asked, and do the work."""
    connection.settimeout(10.0)
    content, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
    size = int.from_bytes(content[:_HEAD], "big")
    while len(content) < _HEAD + size:
        more = connection.recv(2**16)
        if not more:
            return 1
        content += more
    asked = json.loads(content[_HEAD:])
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.chdir(asked["folder"])
    sys.argv = [_REAL, *asked["arguments"]]
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell those whose child has ended how."""
    for child, connection in list(children.items()):
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            continue
        del children[child]
        code = os.waitstatus_to_exitcode(status)
        with connection, contextlib.suppress(OSError):
            connection.sendall(bytes([code if 0 <= code < 256 else 1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
