"""Any Flower app on our grids: read its folder, run its ServerApp against simulated clients.

Nothing in the app changes: message API or older, any strategy, state, mods, custom messages. What
Flower's own simulation does between the two apps (`flwr/simulation/run_simulation.py`) is done by a
`BlockGrid` here.
"""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from flwr.app import Context, RecordDict
from flwr.common.config import flatten_dict

from fedsim import environment
from fedsim.config.schema import Engine
from fedsim.engine.blocks import Population, WorkerCode, load
from fedsim.engine.grid import BlockGrid
from fedsim.engine.launch import open_grid
from fedsim.errors import ConfigError, Problem, SetupError
from fedsim.registry import suggest

__all__ = ["AppRun", "FlowerApp", "override", "read_flower_app", "run_flower_app"]

_DEFAULT_CLIENTS = 10  # as in Flower's default local federation
_FILE = "pyproject.toml"

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class FlowerApp:
    """What an app's pyproject.toml says: "module:name" of both sides, its flat run config.

    `clients`: how many its default federation has.
    """

    folder: Path
    server: str
    client: str
    config: Mapping[str, Value]
    clients: int = _DEFAULT_CLIENTS


@dataclass(frozen=True, slots=True)
class AppRun:
    """What a run of a Flower app came to: messages answered, errors among them, seconds in all.

    `context` is the ServerApp's, with what it kept in `state`; `incidents` tells of workers lost.
    """

    clients: int
    workers: int
    messages: int
    errors: int
    seconds: float
    context: Context
    incidents: Sequence[str] = ()


def read_flower_app(folder: Path) -> FlowerApp:
    """Read `[tool.flwr.app]` of an app's folder.

    Raises `ConfigError` for a folder that is no Flower app, `SetupError` for one that is not there.
    """
    path = folder / _FILE
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        accepted = f"a folder with a {_FILE} that has [tool.flwr.app] ({error.strerror})"
        raise ConfigError([Problem("app", str(folder), accepted)]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(_FILE, str(path), f"valid TOML ({error})")]) from None
    flower = content.get("tool", {}).get("flwr", {})
    app = flower.get("app", {})
    components = app.get("components", {})
    problems = [
        Problem(f"tool.flwr.app.components.{side}", components.get(side), '"module:name"')
        for side in ("serverapp", "clientapp")
        if ":" not in str(components.get(side, ""))
    ]
    if problems:
        raise ConfigError([replace(problem, source=str(path)) for problem in problems])
    try:
        config = flatten_dict(app.get("config", {}))
    except ValueError as error:
        raise ConfigError([Problem("tool.flwr.app.config", str(path), str(error))]) from None
    return FlowerApp(
        folder.resolve(),
        components["serverapp"],
        components["clientapp"],
        config,
        _default_clients(flower),
    )


def override(app: FlowerApp, overrides: Sequence[str]) -> FlowerApp:
    """Return the app with `key=value` in the place of values of its run config.

    Raises `ConfigError` for keys the app does not have and for values of another type.
    """
    config, problems = dict(app.config), []
    for text in overrides:
        key, _, given = text.partition("=")
        if key not in config:
            accepted = f"a key of the app's run config: {', '.join(config) or 'it has none'}"
            problems.append(Problem(key, given, accepted, suggest(key, config)))
            continue
        try:
            config[key] = _parsed(given, type(config[key]))
        except ValueError:
            accepted = f"of type {type(config[key]).__name__}, as its default {config[key]!r}"
            problems.append(Problem(key, given, accepted))
    if problems:
        raise ConfigError(problems)
    return replace(app, config=config)


def run_flower_app(
    server_app: Any,
    client_app: Any,
    *,
    num_clients: int,
    workers: int | None = None,
    run_config: Mapping[str, Value] | None = None,
    grid: str = "ray",
    ray_address: str | None = None,
    code: Sequence[str] = (),
    show_output: bool = False,
) -> AppRun:
    """Run a Flower ServerApp against `num_clients` simulated clients of a ClientApp.

    Both are Flower app objects, or "module:name" to be imported, with the folders `code` on the
    path. `workers`: Ray actors, one per core if unset. `ray_address`: the Ray cluster to join, as
    for `engine.ray_address`. `show_output`: print here what clients
    print. Node i + 1 is client i: `node_config["partition-id"] = i`.

    Raises what the ServerApp raises, `ConfigError` for bad arguments and for apps that cannot be
    imported, and `RunFailedError` when workers keep dying.
    """
    if num_clients < 1:
        raise ConfigError([Problem("num_clients", num_clients, "at least 1")])
    if grid not in ("ray", "inprocess"):
        raise ConfigError([Problem("grid", grid, "'ray' or 'inprocess'")])
    if workers is not None and workers < 1:
        raise ConfigError([Problem("workers", workers, "at least 1, or unset")])
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    started = perf_counter()
    server = _imported(server_app, code) if isinstance(server_app, str) else server_app
    if isinstance(client_app, str):
        _imported(client_app, code)  # refused here rather than in a worker
    runs = WorkerCode(client_app)
    config = dict(run_config or {})
    population = Population(num_clients, config)
    kind: Literal["ray", "inprocess"] = "ray" if grid == "ray" else "inprocess"
    engine = Engine(grid=kind, workers=workers, ray_address=ray_address)
    folders = (*code, str(Path.cwd()))
    environment.keep_freed_memory()
    with open_grid(
        engine,
        population,
        code=folders,
        runs=runs,
        run="flower-app",
        show_output=show_output,
    ) as opened:
        tally = _Tally(opened.grid)
        context = Context(
            run_id=opened.grid.run.run_id,
            node_id=0,
            node_config={},
            state=RecordDict(),
            run_config=config,
        )
        server(opened.grid, context)
        incidents = tuple(opened.grid.incidents)
    return AppRun(
        num_clients,
        opened.workers,
        tally.messages,
        tally.errors,
        perf_counter() - started,
        context,
        incidents,
    )


class _Tally:
    """Counts what a grid carries."""

    def __init__(self, grid: BlockGrid) -> None:
        self.messages = self.errors = 0
        grid.on_reply = self._count

    def _count(self, reply: Any) -> None:
        self.messages += 1
        self.errors += bool(reply.has_error())


def _imported(reference: str, code: Sequence[str]) -> Any:
    sys.path[:0] = [folder for folder in code if folder not in sys.path]
    try:
        return load(reference)
    except Exception as error:  # the user's module may raise anything
        accepted = f"importable (importing it raised {type(error).__name__}: {error})"
        raise ConfigError([Problem("app", reference, accepted)]) from error


def _default_clients(flower: Mapping[str, Any]) -> int:
    """Return the clients of an app's default federation, as older apps have it in their file."""
    federations = flower.get("federations", {})
    default = federations.get(federations.get("default", ""), {})
    count = default.get("options", {}).get("num-supernodes", _DEFAULT_CLIENTS)
    return int(count)


def _parsed(text: str, kind: type[Value]) -> Value:
    """Read a value as TOML, or as the bare text where a text is wanted.

    Raises `ValueError` for a value of another type.
    """
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if kind is str and type(value) is not str:
        value = text
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(text)
    found: Value = value
    return found
