"""From a nested dictionary to a `RunConfig`: every problem is found, none hides another."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedsim import registry
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.fields import Source, fields_of, nowhere, read_table, read_value, unknown
from fedsim.models import UserModel

__all__ = ["assemble", "build", "part_class"]


def build(content: Mapping[str, Any], source: Source = nowhere) -> RunConfig:
    """Validate a nested dictionary; `source(path)` says where a value came from.

    Raises `ConfigError` with all problems.
    """
    config, problems = assemble(content, source)
    if problems:
        raise ConfigError(problems)
    return config


def assemble(content: Mapping[str, Any], source: Source) -> tuple[RunConfig, list[Problem]]:
    """Validate a nested dictionary; what is wrong is listed, and left at its default (parts: None).

    So that what is right can still be checked against the rest, and all is reported at once.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    known = fields_of(RunConfig)
    for key in content.keys() - known.keys():
        hint = registry.suggest(str(key), known)
        problems.append(unknown(str(key), content[key], list(known), hint, source))
    for name, kind in known.items():
        given, before = content.get(name), len(problems)
        if name in PARTS:
            value = _part(name, given, problems, source)
        elif name not in content:
            continue
        elif dataclasses.is_dataclass(kind):
            value = read_table(
                name, kind, {} if given is None else given, problems, source, owner=_owner
            )
        else:
            value = read_value(name, kind, given, problems, source)
        if len(problems) == before:
            values[name] = value
    return RunConfig(**values), sorted(problems, key=lambda problem: problem.path)


def part_class(section: str, name: str) -> type:
    """Return the dataclass of a part; a name with a colon is the user's own model.

    Raises `ConfigError` for an unknown name.
    """
    if section == "model" and ":" in name:
        return UserModel
    try:
        return registry.load(PARTS[section][0], name)
    except ConfigError as error:
        raise ConfigError(
            [dataclasses.replace(p, path=f"{section}.name") for p in error.problems]
        ) from None


def _part(section: str, given: Any, problems: list[Problem], source: Source) -> Any:
    """Build a part; its name picks the class, the class says which fields there are."""
    content = {} if given is None else given
    if not isinstance(content, Mapping):
        wanted = f"a table with a name: [{section}] name = ..."
        hint = f"Did you mean {section}.name={given}?" if isinstance(given, str) else ""
        problems.append(Problem(section, given, wanted, hint, source(section)))
        return None
    name = content.get("name", PARTS[section][1])
    if not isinstance(name, str):
        problems.append(Problem(f"{section}.name", name, "text", source=source(f"{section}.name")))
        return None
    try:
        kind = part_class(section, name)
    except ConfigError as error:
        where = source(f"{section}.name")
        problems += [dataclasses.replace(problem, source=where) for problem in error.problems]
        return None
    fields = {key: value for key, value in content.items() if key != "name"}
    if kind is UserModel:
        fields["name"] = name
    return read_table(section, kind, fields, problems, source, name=name, owner=_owner)


def _owner(path: str) -> str:
    """Say which other part of the section has the key."""
    section, _, key = path.partition(".")
    if section not in PARTS:
        return ""
    owners = []
    for name in registry.names(PARTS[section][0]):
        try:
            fields = fields_of(part_class(section, name))
        except ConfigError:  # an installed package's that does not work: no other's problem
            continue
        owners += [name] if key in fields else []
    return f"It belongs to {', '.join(owners)}." if owners else ""
