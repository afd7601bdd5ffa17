"""Settings of a federation's machines: server.toml, node.toml and operator.toml of a bundle.

Paths in them are relative to the folder that the file is in.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table

__all__ = [
    "NODE",
    "OPERATOR",
    "SERVER",
    "SERVER_FOLDER",
    "NodeSettings",
    "OperatorSettings",
    "ServerSettings",
    "read_node",
    "read_operator",
    "read_server",
]

SERVER, NODE, OPERATOR = "server.toml", "node.toml", "operator.toml"
#: Environment variable by which the ServerApp finds the server's folder.
SERVER_FOLDER = "FEDSIM_SERVER"

_Port = Annotated[int, Ge(1), Le(65535)]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`server.toml`. `listen`, `port`: where nodes and operators connect to.

    `runs`: the run store, a folder or the URL of a database; `data_dir`: data files that the server
    may test models on; `code`: folders of models of your own. `wait_s`: how long a run waits for a
    further node at its start, before it begins without those that are not there.
    """

    listen: str = "127.0.0.1"
    port: _Port = 8000
    runs: str = ""
    data_dir: str = ""
    code: tuple[str, ...] = ()
    wait_s: Annotated[float, Ge(0)] = 300.0
    folder: str = ""

    def identities(self) -> dict[str, str]:
        """Return where the identities of clients are, for secure sums; nothing without a folder."""
        if not self.folder:
            return {}
        root = Path(self.folder)
        return {"identities": str(root / "identities.json"), "authority": str(root / "ca.crt")}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`[node]` of node.toml: which client this is, and the server it connects to.

    `address`: HOST:PORT. `number`: this client's number, 0 to `clients` - 1. `port`: on this
    machine alone, for Flower's own processes. `min_threshold`: the least share of a cohort that
    opens a secure sum. `data_dir`: files of public data sets, for trials.
    """

    name: str
    number: Annotated[int, Ge(0)]
    clients: Annotated[int, Ge(1)]
    address: str
    port: _Port = 9094
    min_threshold: float = 2 / 3
    data_dir: str = ""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """`operator.toml`. `address`: HOST:PORT of the server."""

    address: str


def read_server(folder: Path) -> ServerSettings:
    """Read server.toml. Raises `ConfigError` with everything that is wrong with it."""
    found: ServerSettings = _read(folder / SERVER, "server", ServerSettings)
    runs = found.runs or "runs"
    return replace(
        found,
        folder=str(folder.absolute()),
        runs=runs if "://" in runs else _absolute(folder, runs),
        data_dir=_absolute(folder, found.data_dir),
        code=tuple(_absolute(folder, path) for path in found.code),
    )


def read_node(folder: Path) -> NodeSettings:
    """Read what node.toml says of the connection. Raises `ConfigError` for all that is wrong."""
    found: NodeSettings = _read(folder / NODE, "node", NodeSettings)
    return replace(found, data_dir=_absolute(folder, found.data_dir))


def read_operator(folder: Path) -> OperatorSettings:
    """Read operator.toml. Raises `ConfigError` with everything that is wrong with it."""
    found: OperatorSettings = _read(folder / OPERATOR, "operator", OperatorSettings)
    return found


def _read(path: Path, table: str, kind: Any) -> Any:
    try:
        content: Mapping[str, Any] = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        accepted = f"a folder that `fedsim deploy init` made: it has no {path.name}"
        raise ConfigError([Problem(table, str(path.parent), accepted)]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([Problem(table, str(path), f"a TOML file ({error})")]) from error
    problems: list[Problem] = []
    found = None
    if isinstance(content.get(table), dict):
        found = read_table(table, kind, content[table], problems)
    else:
        names = ", ".join(field.name for field in fields(kind))
        problems.append(Problem(table, content.get(table), f"a table [{table}] with {names}"))
    if problems:
        raise ConfigError([replace(p, source=str(path)) for p in problems])
    return found


def _absolute(folder: Path, path: str) -> str:
    return str((folder / path).absolute()) if path else ""
