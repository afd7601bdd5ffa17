"""A warm process for the apps of Flower: it has everything loaded, and forks.

Flower starts a process `flwr-clientapp` for every message, and `flwr-serverapp` for every run; each
first imports torch and Flower for seconds. Here these commands, on the path of a SuperNode or a
SuperLink, are small scripts (`_shim`) that hand their arguments to a process that has imported all
of it; that process forks for each, so that messages are as much apart as before. At the time of a
fork it runs one thread of Python's, and has computed nothing; the libraries that it loads know of
forks.
"""

import contextlib
import importlib
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["CLIENT", "PROGRAMS", "SERVER", "main", "make_commands", "serve"]

CLIENT, SERVER = "flwr-clientapp", "flwr-serverapp"
#: Where the entry of a program is, and the modules that it will load.
PROGRAMS = {
    CLIENT: (
        "fedsim.deploy.own_app",  # nothing of a bundle that is sent is run
        "main",
        "fedsim.clients.app",
        "fedsim.deployment",
    ),
    SERVER: ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp", "fedsim.deploy.server_app"),
}
#: What rows and ledgers need, of those libraries that are imported on first use.
_BOTH = ("pandas", "sklearn.datasets", "fedsim.privacy.accounting", "dp_accounting.pld.accountant")
_HEAD = 8
_POLL_S = 0.02


def make_commands(folder: Path, place: Path, programs: Sequence[str]) -> None:
    """Write commands into a folder that hand over to the socket at `place`: of `PROGRAMS`."""
    from fedsim.deploy import _shim

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in programs:
        real = Path(sys.executable).parent / name
        words = [sys.executable, "-IS", str(Path(_shim.__file__)), str(place), str(real)]
        command = " ".join(shlex.quote(word) for word in words)
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        path.chmod(0o700)


def main(place: Path, programs: Sequence[str]) -> NoReturn:
    """Serve programs at a socket, with everything loaded that they need, until a signal ends it."""
    serve(place, lambda: {name: _loaded(name) for name in programs})


def serve(place: Path, load: Callable[[], Mapping[str, Callable[[], object]]]) -> NoReturn:
    """Serve at a socket: what `load` returns does each connection's work, in a fork.

    The file `place`.ready is there as soon as everything is loaded.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        os.chdir(place.parent)  # the path of a socket may have some hundred bytes only
        ready = Path(f"{place}.ready")
        for path in (place, ready):
            path.unlink(missing_ok=True)
        server.bind(place.name)
        place.chmod(0o600)
        server.listen(64)  # whoever connects early waits
        work = load()
        ready.touch(0o600)
        children: dict[int, socket.socket] = {}
        server.settimeout(_POLL_S)
        while True:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                _begin(server, connection, work, children)
            _reap(children)


def _loaded(program: str) -> Callable[[], object]:
    """Import a program of Flower's, and all that our app in it uses; return its entry."""
    module, entry, *more = PROGRAMS[program]
    for name in (*more, *_BOTH):
        importlib.import_module(name)
    found: Callable[[], object] = getattr(importlib.import_module(module), entry)
    return found


def _begin(
    server: socket.socket,
    connection: socket.socket,
    work: Mapping[str, Callable[[], object]],
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


def _work(connection: socket.socket, work: Mapping[str, Callable[[], object]]) -> int:
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
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["command"]
    try:
        work[sys.argv[0]]()
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
    main(Path(sys.argv[1]), sys.argv[2:])
