"""From a nested dictionary to a `RunConfig`: every problem is found, none hides another."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import annotated_types as at
from pydantic import TypeAdapter, ValidationError

from fedsim import registry
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.models import UserModel

__all__ = ["accepted", "build", "fields_of", "fits", "part_class"]

Source = Callable[[str], str]


def build(content: Mapping[str, Any], source: Source = lambda path: "") -> RunConfig:
    """Validate a nested dictionary; `source(path)` says where a value came from.

    Raises `ConfigError` with all problems.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    for key in content.keys() - hints.keys():
        problems.append(_unknown(key, content[key], list(hints), source))
    for name, kind in hints.items():
        given = content.get(name)
        if name in PARTS:
            values[name] = _part(name, given, problems, source)
        elif dataclasses.is_dataclass(kind):
            if given is not None:
                values[name] = _table(name, kind, given, problems, source)
        elif name in content:
            values[name] = _value(name, kind, given, problems, source)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.path))
    return RunConfig(**values)


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


def fields_of(kind: Any) -> dict[str, Any]:
    """Return a dataclass's fields and their annotations, constraints included."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def accepted(annotation: Any) -> str:
    """Say in words what an annotation accepts.

    >>> from typing import Annotated
    >>> accepted(Annotated[float, at.Ge(0), at.Lt(1)])
    'a number >= 0 and < 1'
    """
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        base, *constraints = typing.get_args(annotation)
        limits = [_limit(constraint) for constraint in constraints]
        return f"{accepted(base)} {' and '.join(limit for limit in limits if limit)}".strip()
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(annotation)))}"
    if origin in (typing.Union, types.UnionType):
        kinds = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return f"{' or '.join(accepted(kind) for kind in kinds)}, or unset"
    if origin is tuple:
        return f"a list, each {accepted(typing.get_args(annotation)[0])}"
    if origin in (dict, Mapping) or annotation is Mapping:
        return "a table"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _part(section: str, given: Any, problems: list[Problem], source: Source) -> Any:
    """Build a part; its name picks the class, the class says which fields there are."""
    content = {} if given is None else given
    if not isinstance(content, Mapping):
        wanted = f"a table with a name: [{section}] name = ..."
        problems.append(Problem(section, given, wanted, source=source(section)))
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
    return _table(section, kind, fields, problems, source, name)


def _table(
    path: str,
    kind: Any,
    given: Any,
    problems: list[Problem],
    source: Source,
    name: str = "",
) -> Any:
    if not isinstance(given, Mapping):
        problems.append(Problem(path, given, "a table", source=source(path)))
        return None
    known, before = fields_of(kind), len(problems)
    for key in given.keys() - known.keys():
        problems.append(_unknown(f"{path}.{key}", given[key], list(known), source, name))
    values = {
        key: _value(f"{path}.{key}", known[key], value, problems, source)
        for key, value in given.items()
        if key in known
    }
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ConfigError as error:  # from the part's own __post_init__
        problems += [dataclasses.replace(p, source=source(p.path)) for p in error.problems]
        return None


def _value(path: str, kind: Any, given: Any, problems: list[Problem], source: Source) -> Any:
    try:
        return _validated(kind, given)
    except ValidationError:
        problems.append(Problem(path, given, accepted(kind), source=source(path)))
        return None


def fits(kind: Any, given: Any) -> bool:
    """Say whether a value is one that an annotation accepts.

    >>> fits(int, 3), fits(int, "3"), fits(float, 3)
    (True, False, True)
    """
    try:
        _validated(kind, given)
    except ValidationError:
        return False
    return True


def _validated(kind: Any, given: Any) -> Any:
    # Strict, so that "3" is no number and 1 no boolean; lists serve as tuples, 1 as 1.0.
    value = tuple(given) if isinstance(given, list) else given
    return TypeAdapter(kind).validate_python(value, strict=True)


def _unknown(path: str, value: Any, known: list[str], source: Source, name: str = "") -> Problem:
    key = path.rsplit(".", 1)[-1]
    of = f" of {name}" if name else ""
    fields = ", ".join(["name", *known] if name else known) or "none"
    hint = registry.suggest(key, known) or _owner(path)
    return Problem(path, value, f"no such key{of}; there are: {fields}", hint, source(path))


def _owner(path: str) -> str:
    """Say which other part of the section has the key."""
    section, _, key = path.partition(".")
    if section not in PARTS:
        return ""
    owners = [
        name
        for name in registry.names(PARTS[section][0])
        if key in fields_of(registry.load(PARTS[section][0], name))
    ]
    return f"It belongs to {', '.join(owners)}." if owners else ""


def _limit(constraint: Any) -> str:
    names = {at.Gt: ("gt", ">"), at.Ge: ("ge", ">="), at.Lt: ("lt", "<"), at.Le: ("le", "<=")}
    for kind, (attribute, sign) in names.items():
        if isinstance(constraint, kind):
            return f"{sign} {getattr(constraint, attribute)}"
    return ""
