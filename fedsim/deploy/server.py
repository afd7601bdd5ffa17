"""The server of a federation: a SuperLink in the foreground, with TLS, and the nodes it lets in."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from fedsim.certificates import describe
from fedsim.deploy.bundle import LOGINS
from fedsim.deploy.control import connected
from fedsim.deploy.processes import Processes, environment, superlink
from fedsim.deploy.settings import SERVER_FOLDER, ServerSettings, read_server
from fedsim.deploy.warm import SERVER, make_commands
from fedsim.errors import IdentityError, NetworkError, SetupError
from fedsim.files import read_public, read_secret

__all__ = ["NAME", "must_hold", "own_address", "start_server", "wait_for"]

NAME = "server"
_READY_S = 120.0


def start_server(
    folder: Path, processes: Processes, *, warm: Path, is_insecure: bool = False
) -> str:
    """Start the server of a folder and let its nodes in; return the address here, HOST:PORT.

    `warm`: the socket of the process that runs its apps (`start_warm`).

    Raises `ConfigError` for settings that are wrong, `IdentityError` for a certificate that does
    not hold, `SetupError` where it does not start.
    """
    settings = read_server(folder)
    if not is_insecure:
        read_secret(folder / "server.key")
        must_hold(folder / "server.crt", "fedsim keys rotate server")
        must_hold(folder / "ca.crt", "fedsim keys init")
    own = {SERVER_FOLDER: str(folder.absolute())}
    if "FEDSIM_RUN_FILES" not in os.environ:
        own["FEDSIM_RUN_FILES"] = str((folder / "runs").absolute())
    if (folder / "storage.key").exists() and "FEDSIM_STORAGE_KEY_FILE" not in os.environ:
        own["FEDSIM_STORAGE_KEY_FILE"] = str((folder / "storage.key").absolute())
    tls = None if is_insecure else folder.absolute()
    command = superlink(settings.listen, settings.port, folder.absolute() / "state.db", tls)
    commands = folder.absolute() / "bin"
    make_commands(commands, warm, [SERVER])
    around = environment(folder.absolute() / "flwr-home", **own)
    around["PATH"] = f"{commands}:{around['PATH']}"
    processes.start(NAME, command, around)
    address = own_address(settings)
    certificate = None if is_insecure else folder / "ca.crt"
    wait_for(address, certificate, processes)
    if not is_insecure:
        with connected(address, certificate) as control:
            control.let_in(sorted((folder / LOGINS).glob("*.pub")))
    return address


def own_address(settings: ServerSettings) -> str:
    """Return where the server is reached from its own machine."""
    host = "127.0.0.1" if settings.listen in ("0.0.0.0", "") else settings.listen
    return f"{host}:{settings.port}"


def wait_for(
    address: str,
    certificate: Path | None,
    processes: Processes,
    seconds: float = _READY_S,
) -> None:
    """Wait until a server answers. Raises `SetupError` where it does not, or has ended."""
    deadline = time.monotonic() + seconds
    while True:
        processes.must_run()
        try:
            with connected(address, certificate) as control:
                control.nodes()
                return
        except NetworkError as error:
            if time.monotonic() > deadline:
                raise SetupError(f"the server does not answer: {error}") from error
        time.sleep(0.3)


def must_hold(certificate: Path, renewed_by: str) -> None:
    """Raise `IdentityError` for a certificate that is not valid now."""
    facts, now = describe(read_public(certificate)), datetime.now(UTC)
    if not facts.begins <= now <= facts.ends:
        raise IdentityError(
            f"{certificate} holds from {facts.begins:%F} to {facts.ends:%F}, not today. Make a new "
            f"one where the authority is: {renewed_by}"
        )
