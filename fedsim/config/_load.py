"""Load an experiment: defaults < file < environment < command line, every value with its source."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.config._anonymization import SCHEMA, anchor_schema, with_schema
from fedsim.config._build import assemble, part_class
from fedsim.config._check import illegal
from fedsim.config._declared import anchor_declared, with_declared
from fedsim.config._lines import key_lines
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.fields import fields_of, fits
from fedsim.files import from_home

__all__ = ["IMPLIED", "experiments", "load"]

_PREFIX = "FEDSIM__"
_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_PLACE = re.compile(r" ?\(at (line (?P<line>\d+), column \d+|end of document)\)")

#: A key that gives its part away: data.path=patients.csv is the data set `table`.
IMPLIED = (("data", "path", "table"), ("partition", "by", "natural"))


@dataclass(frozen=True, slots=True)
class _Setting:
    """One assignment as text, from the environment or the command line."""

    source: str
    path: str
    text: str


@dataclass(slots=True)
class _Draft:
    """What is known so far: the nested content, where each path comes from, what is wrong.

    `is_named`: somebody named the experiment; otherwise it is called after its file or its data.
    """

    content: dict[str, Any]
    is_named: bool
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


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
    folder: str | Path | None = None,
) -> RunConfig:
    """Load and check an experiment: a TOML file, the name of a built-in one, or a mapping.

    `overrides` are "key.path=value"; `FEDSIM__ROUNDS__COUNT=3` in the environment is the same as
    "rounds.count=3". Naming another part in a later source drops what an earlier one set for the
    part it replaces, but for fields that both have and that fit. An empty value unsets. A relative
    `data.path` or `anonymization.schema` is relative to the file that says so, elsewhere to
    `folder` (the working directory).

    Raises `ConfigError` with every problem, each with its file and line or other source.
    """
    draft = _read(experiment)
    _apply(draft, _environment(os.environ if environ is None else environ, draft.problems))
    _apply(draft, _assignments(overrides, draft.problems))
    _anchor(draft.content, folder)
    _anchor_devices(draft.content, folder)
    with_declared(draft.content, Path(folder or ""), draft.problems)
    source = partial(_source, draft.sources)
    with_schema(draft.content, Path(folder or ""), draft.problems, source)
    config, problems = assemble(draft.content, source)
    known = {problem.path.split(".")[0] for problem in draft.problems}
    # A schema that cannot be read is one that is missing: one problem, not two.
    found = [p for p in illegal(config, source) if p.path != SCHEMA or "anonymization" not in known]
    problems = [*draft.problems, *problems, *found]
    if problems:
        raise ConfigError(problems)
    return config


def _read(experiment: str | Path | Mapping[str, Any]) -> _Draft:
    """Return an experiment's content and where each key stands."""
    if isinstance(experiment, Mapping):
        draft = _Draft(_copy(experiment), "name" in experiment)
    else:
        path = Path(experiment)
        draft = _parsed(*_text(path))
        draft.content.setdefault("name", path.stem)
        if _is_file(path):
            _anchor(draft.content, path.parent)
            anchor_declared(draft.content, path.parent)
            anchor_schema(draft.content, path.parent)
            _anchor_devices(draft.content, path.parent)
    for section, _, _ in IMPLIED:
        table = draft.content.get(section)
        if isinstance(table, dict):
            _name_implied(section, table)
    return draft


def _text(path: Path) -> tuple[str, str]:
    """Return the text of an experiment, and the file's name for messages."""
    known = experiments()
    if _is_file(path):
        name = str(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            accepted = f"a file that can be read: {error.strerror}"
            raise ConfigError([Problem("experiment", name, accepted)]) from error
    elif str(path) in known:
        name = f"{path}.toml"
        content = (resources.files("fedsim") / "experiments" / name).read_bytes()
    else:
        wanted = f"a TOML file, or one of the built-in experiments: {', '.join(known)}"
        near = [place for place in (f"{path}.toml", f"{path}/experiment.toml") if _is_file(place)]
        hint = f"Did you mean {near[0]!r}?" if near else registry.suggest(str(path), list(known))
        raise ConfigError([Problem("experiment", str(path), wanted, hint)])
    try:
        return content.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 1]
        problem = Problem(name, found, "text in UTF-8", source=f"{name}:{line}")
        raise ConfigError([problem]) from None


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # such as a name that is too long
        return False


def _parsed(text: str, name: str) -> _Draft:
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long for int are a ValueError too
        reason = "nested less deeply" if isinstance(error, RecursionError) else str(error)
        place = _PLACE.search(reason)
        lines = text.splitlines() or [""]
        number = int(place["line"]) if place and place["line"] else len(lines)
        value = lines[min(number, len(lines)) - 1] if place else "TOML"
        source = f"{name}:{number}" if place else name
        problem = Problem(name, value, f"valid TOML; {reason}", source=source)
        raise ConfigError([problem]) from None
    sources = {key: f"{name}:{line}" for key, line in key_lines(text).items()}
    return _Draft(content, "name" in content, sources)


def _environment(environ: Mapping[str, str], problems: list[Problem]) -> list[_Setting]:
    settings = []
    for key, value in sorted(environ.items()):
        path = key.removeprefix(_PREFIX).lower().replace("__", ".")
        if not key.startswith(_PREFIX):
            continue
        if _PATH.fullmatch(path):
            settings.append(_Setting(f"environment variable {key}", path, value.strip()))
        else:
            problems.append(Problem(key, value, f"a name such as {_PREFIX}ROUNDS__COUNT"))
    return settings


def _assignments(overrides: Sequence[str], problems: list[Problem]) -> list[_Setting]:
    settings = []
    for text in overrides:
        path, separator, value = text.partition("=")
        if separator and _PATH.fullmatch(path.strip()):
            settings.append(_Setting(f"override {text!r}", path.strip(), value.strip()))
        else:
            problems.append(Problem(text, text, "key=value, such as rounds.count=3"))
    return settings


def _apply(draft: _Draft, settings: list[_Setting]) -> None:
    """Write one source's settings over what earlier sources said.

    What names a part goes before the fields of the new part, whatever the order given.
    """
    draft.is_named |= any(setting.path == "name" for setting in settings)
    settings = [*settings, *_implied(draft, settings)]
    names = {f"{section}.name" for section in PARTS}
    for setting in sorted(settings, key=lambda s: 0 if s.path in PARTS else 2 - (s.path in names)):
        _set(draft, setting)


def _implied(draft: _Draft, settings: list[_Setting]) -> list[_Setting]:
    """Name the parts that a key gives away, unless this source names them or they have the key."""
    given = {setting.path: setting for setting in settings if setting.text}
    found = []
    for section, key, name in IMPLIED:
        setting = given.get(f"{section}.{key}")
        table = draft.content.get(section, {})
        if setting and f"{section}.name" not in given and key not in _part_fields(section, table):
            found.append(_Setting(setting.source, f"{section}.name", name))
            if name == "table" and not draft.is_named:
                found.append(_Setting(setting.source, "name", Path(setting.text).stem))
    return found


def _name_implied(section: str, table: dict[str, Any]) -> None:
    """Do the same for a whole table."""
    for of, key, name in IMPLIED:
        if of == section and key in table and "name" not in table:
            table["name"] = name


def _set(draft: _Draft, setting: _Setting) -> None:
    *parents, last = setting.path.split(".")
    table = draft.content
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            accepted = f"a key there is: {parent} has a value, not keys"
            problem = Problem(setting.path, setting.text, accepted, source=setting.source)
            draft.problems.append(problem)
            return
    for path in [path for path in draft.sources if path.startswith(f"{setting.path}.")]:
        del draft.sources[path]
    draft.sources[setting.path] = setting.source
    if not setting.text:
        table.pop(last, None)
        return
    value = _value(draft.content, [*parents, last], setting.text)
    if last == "name" and len(parents) == 1 and parents[0] in PARTS:
        _keep_common(parents[0], table, value)
    if setting.path in PARTS and isinstance(value, dict):
        _name_implied(last, value)
    table[last] = value


def _value(content: dict[str, Any], keys: list[str], text: str) -> Any:
    """Read a value as TOML would; what is no TOML value, or where text is wanted, is text."""
    value = _parse(text)
    kind = _annotation(content, keys)
    if kind is not None and not fits(kind, value) and fits(kind, text):
        return text
    return value


def _parse(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {}
    if list(found) == ["value"]:
        return found["value"]
    if re.fullmatch(r"\[[^\[\]{}\"']*\]", text):  # [accuracy, f1]: the shell ate the quotes
        return [_parse(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    return text


def _annotation(content: dict[str, Any], keys: list[str]) -> Any:
    """Return the annotation of the field at a path; None where there is none."""
    known = fields_of(RunConfig)
    if len(keys) == 1:
        return None if keys[0] in PARTS else known.get(keys[0])
    if len(keys) > 2 or keys[0] not in PARTS:
        return None
    if keys[1] == "name":
        return str
    return _part_fields(keys[0], content[keys[0]]).get(keys[1])


def _part_fields(section: str, table: Any) -> Mapping[str, Any]:
    """Return the fields of the part that a table names; none where that is no part."""
    name = table.get("name", PARTS[section][1]) if isinstance(table, dict) else None
    try:
        return fields_of(part_class(section, name)) if isinstance(name, str) else {}
    except ConfigError:  # no such part: reported when it is built
        return {}


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


def _anchor(content: dict[str, Any], folder: str | Path | None) -> None:
    """Make a table's path absolute, so that it means the same from every folder and process."""
    table = content.get("data")
    if isinstance(table, dict) and table.get("name", "table") == "table":
        path = table.get("path")
        if isinstance(path, str) and path:
            table["path"] = _absolute(folder, path)


def _anchor_devices(content: dict[str, Any], folder: str | Path | None) -> None:
    """Make the paths of traces mean the same from everywhere."""
    table = content.get("devices")
    for key in ("capacity", "availability", "states", "network"):
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
            table[key] = _absolute(folder, table[key])


def _absolute(folder: str | Path | None, path: str) -> str:
    """Return a path as seen from a folder; that of an unknown user stays as it is."""
    return str(Path(folder or "", from_home(path)).absolute())


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


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {str(k): _copy(v) if isinstance(v, Mapping) else v for k, v in content.items()}
