"""Load an experiment: defaults < file < environment < command line, every value with its source."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.config._build import build, fields_of, fits, part_class
from fedsim.config._check import check
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem

__all__ = ["experiments", "load"]

_PREFIX = "FEDSIM__"
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-]+(?:\s*\.\s*[A-Za-z0-9_\-]+)*)\s*=")
_TABLE = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]")


def experiments() -> dict[str, str]:
    """Return the built-in experiments: name -> its first comment line."""
    folder = resources.files("fedsim") / "experiments"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".toml"):
            first = file.read_text(encoding="utf-8").splitlines()[0]
            found[file.name.removesuffix(".toml")] = first.lstrip("# ").strip()
    return found


def load(
    experiment: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> RunConfig:
    """Load and check an experiment: a TOML file, the name of a built-in one, or a mapping.

    `overrides` are "key.path=value"; `FEDSIM__ROUNDS__COUNT=3` in the environment is the same as
    "rounds.count=3". Naming another part in a later source drops what an earlier one set for the
    part it replaces, but for fields that both have and that fit. An empty value unsets.

    Raises `ConfigError` with every problem, each with its file and line or other source.
    """
    content, sources = _read(experiment)
    problems: list[Problem] = []
    layers = [
        (f"{_PREFIX}{key}", path, value)
        for key, path, value in _environment(os.environ if environ is None else environ)
    ]
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            problems.append(Problem(text, text, "key=value, such as rounds.count=3"))
            continue
        layers.append((f"override {text!r}", key.strip(), value))
    for source, path, value in _parts_first(layers):
        _set(content, sources, path, _parse(value), source, problems)
    _imply(content, sources)
    try:
        config = build(content, lambda path: _source(sources, path))
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    check(config, lambda path: _source(sources, path))
    return config


def _read(experiment: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return an experiment's content and where each key stands."""
    if isinstance(experiment, Mapping):
        return _copy(experiment), {}
    path = Path(experiment)
    if path.is_file():
        text, name = path.read_text(encoding="utf-8", errors="replace"), str(experiment)
    elif str(experiment) in experiments():
        file = resources.files("fedsim") / "experiments" / f"{experiment}.toml"
        text, name = file.read_text(encoding="utf-8"), f"{experiment}.toml"
    else:
        known = experiments()
        wanted = f"a TOML file, or one of the built-in experiments: {', '.join(known)}"
        hint = registry.suggest(str(experiment), list(known))
        raise ConfigError([Problem("experiment", str(experiment), wanted, hint)])
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(name, "TOML", f"it cannot be read: {error}")]) from None
    sources = {key: f"{name}:{line}" for key, line in _lines(text).items()}
    content.setdefault("name", Path(name).stem)
    data = content.get("data")
    if path.is_file() and isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = str(path.parent / data["path"])  # relative to the file that says so
    return content, sources


def _lines(text: str) -> dict[str, int]:
    """Find the line of every key and table of a TOML text; good enough to point a person there."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE.match(line):
            table = match[1].replace(" ", "")
            lines.setdefault(table, number)
        elif match := _KEY.match(line):
            key = match[1].replace(" ", "")
            lines.setdefault(f"{table}.{key}" if table else key, number)
    return lines


def _source(sources: Mapping[str, str], path: str) -> str:
    """Return where a value came from; a key without a place of its own is its table's."""
    if path not in sources:
        inside = [source for key, source in sources.items() if key.startswith(f"{path}.")]
        if inside:
            return inside[-1]
    while path:
        if path in sources:
            return sources[path]
        path = path.rpartition(".")[0]
    return ""


def _environment(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [
        (key.removeprefix(_PREFIX), key.removeprefix(_PREFIX).lower().replace("__", "."), value)
        for key, value in sorted(environ.items())
        if key.startswith(_PREFIX)
    ]


def _parts_first(layers: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Put what names a part before the fields of the new part, whatever the order given."""
    names = {f"{section}.name" for section in PARTS}
    return sorted(layers, key=lambda layer: layer[1] not in names)


def _parse(value: str) -> Any:
    """Read a value as TOML would; what is no TOML value is text. Empty is None: unset."""
    if not value:
        return None
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _set(
    content: dict[str, Any],
    sources: dict[str, str],
    path: str,
    value: Any,
    source: str,
    problems: list[Problem],
) -> None:
    *parents, last = path.split(".")
    table = content
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            problems.append(Problem(path, value, f"a key: {parent} is a value", source=source))
            return
    sources[path] = source
    if value is None:
        table.pop(last, None)
        return
    if last == "name" and len(parents) == 1 and parents[0] in PARTS:
        _keep_common(parents[0], table, value)
    table[last] = value


def _keep_common(section: str, table: dict[str, Any], name: Any) -> None:
    """Drop the fields that the part of the new name does not have, or not of that kind."""
    if table.get("name", PARTS[section][1]) == name or not isinstance(name, str):
        return
    try:
        known = fields_of(part_class(section, name))
    except ConfigError:
        return  # reported when the part is built
    for key in [key for key in table if key != "name"]:
        if key not in known or not fits(known[key], table[key]):
            del table[key]


def _imply(content: dict[str, Any], sources: dict[str, str]) -> None:
    """Name the parts that a single key gives away: data.path is a table, partition.by natural."""
    for section, key, name in (("data", "path", "table"), ("partition", "by", "natural")):
        table = content.get(section)
        if isinstance(table, dict) and key in table:
            given = sources.get(f"{section}.name", "")
            if "name" not in table or not given.startswith("override"):
                _keep_common(section, table, name)
                table["name"] = name
    path = content.get("data", {}).get("path") if isinstance(content.get("data"), dict) else None
    if isinstance(path, str) and "data.path" in sources and "name" not in sources:
        content["name"] = Path(path).stem  # the run is about these data, not what they replaced


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in content.items()}
