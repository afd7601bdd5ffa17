"""A node of a federation: a SuperNode in the foreground, and the warm process of its clients."""

import socket
import ssl
from pathlib import Path

from fedsim.deploy.processes import Processes, environment, node_config_text, supernode
from fedsim.deploy.server import must_hold
from fedsim.deploy.settings import NodeSettings, read_node
from fedsim.deploy.warm import CLIENT, make_commands
from fedsim.errors import IdentityError
from fedsim.files import read_secret

__all__ = ["must_know", "start_node"]

_HANDSHAKE_S = 10.0


def start_node(
    folder: Path, processes: Processes, *, warm: Path, is_insecure: bool = False
) -> NodeSettings:
    """Start the node of a folder; `warm`: the socket of its clients' process (`start_warm`).

    Raises `ConfigError` for settings that are wrong, `IdentityError` for an authority or a server
    that must not be trusted, `SetupError` for keys that others can read.
    """
    settings, folder = read_node(folder), folder.absolute()
    if not is_insecure:
        read_secret(folder / "supernode.key")
        must_hold(folder / "ca.crt", "fedsim keys init")
        must_know(settings.address, folder / "ca.crt")
    commands = folder / "bin"
    make_commands(commands, warm, [CLIENT])
    own = environment(folder / "flwr-home", OMP_NUM_THREADS="1")
    own["PATH"] = f"{commands}:{own['PATH']}"
    config: dict[str, str | int | float] = {
        "partition-id": settings.number,
        "num-partitions": settings.clients,
        "node-folder": str(folder),
        "min-threshold": settings.min_threshold,
    }
    if settings.data_dir:
        config["data-dir"] = settings.data_dir
    tls = None if is_insecure else folder
    command = supernode(settings.address, settings.port, node_config_text(config), tls)
    processes.start(settings.name, command, own)
    return settings


def must_know(address: str, authority: Path) -> None:
    """Raise `IdentityError` for a server whose certificate the authority did not sign.

    A server that is not there yet is waited for by the node itself.
    """
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")),
        ):
            return
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason
        raise IdentityError(
            f"{address} is not the server of this federation: its certificate does not hold by "
            f"{authority} ({why}). Nothing is sent to it"
        ) from error
    except (OSError, ValueError):
        return
