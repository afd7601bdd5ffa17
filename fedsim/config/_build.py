"""From a nested dictionary to a `RunConfig`: every problem is found, none hides another."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import annotated_types as at
from pydantic import TypeAdapter

from fedsim import registry
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.models import UserModel

__all__ = ["accepted", "assemble", "build", "fields_of", "fits", "part_class", "required"]

Source = Callable[[str], str]


def build(content: Mapping[str, Any], source: Source = lambda path: "") -> RunConfig:
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
        problems.append(_unknown(str(key), content[key], list(known), source))
    for name, kind in known.items():
        given, before = content.get(name), len(problems)
        if name in PARTS:
            value = _part(name, given, problems, source)
        elif name not in content:
            continue
        elif dataclasses.is_dataclass(kind):
            value = _table(name, kind, {} if given is None else given, problems, source)
        else:
            value = _value(name, kind, given, problems, source)
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


@cache
def fields_of(kind: Any) -> Mapping[str, Any]:
    """Return a dataclass's fields and their annotations, constraints included."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def accepted(annotation: Any) -> str:
    """Say in words what an annotation accepts.

    >>> from typing import Annotated
    >>> accepted(Annotated[float, at.Ge(0), at.Lt(1)])
    'a number >= 0 and < 1'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [limit for constraint in arguments[1:] for limit in _limits(constraint)]
        return f"{accepted(arguments[0])} {' and '.join(limits)}".strip()
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        kinds = [arg for arg in arguments if arg is not type(None)]
        unset = ", or unset" if len(kinds) < len(arguments) else ""
        return f"{' or '.join(accepted(kind) for kind in kinds)}{unset}"
    if origin in (tuple, list, Sequence):
        return f"a list, each {accepted(arguments[0])}"
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "a table"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    names |= {Any: "anything", tuple: "a list", list: "a list"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


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
    for key in required(kind) - given.keys():
        accepts = f"{accepted(known[key])}; it has no default"
        problems.append(Problem(f"{path}.{key}", None, accepts, source=source(path)))
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
    except (TypeError, ValueError) as error:  # from the one of somebody else's part
        problems.append(Problem(path, dict(given), str(error), source=source(path)))
    return None


def required(kind: Any) -> set[str]:
    """Return the fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is missing and field.default_factory is missing
    }


def _value(path: str, kind: Any, given: Any, problems: list[Problem], source: Source) -> Any:
    try:
        return _validated(kind, given)
    except ValueError:  # pydantic's, and our own for what is not plain
        accepts = accepted(kind)
        if isinstance(given, float) and not math.isfinite(given):
            accepts = accepts.replace("a number", "a finite number")
        elif isinstance(given, Mapping):
            accepts = f"{accepts} of text, finite numbers, true or false, lists and tables"
        problems.append(Problem(path, given, accepts, source=source(path)))
        return None


def fits(kind: Any, given: Any) -> bool:
    """Say whether a value is one that an annotation accepts.

    >>> fits(int, 3), fits(int, "3"), fits(float, 3)
    (True, False, True)
    """
    try:
        _validated(kind, given)
    except ValueError:
        return False
    return True


def _validated(kind: Any, given: Any) -> Any:
    # Strict, so that "3" is no number and 1 no boolean; lists serve as tuples, 1 as 1.0.
    if given is not None and not _is_plain(given):
        raise ValueError(given)
    value = tuple(given) if isinstance(given, list) else given
    return _adapter(kind).validate_python(value, strict=True)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _is_plain(value: Any) -> bool:
    """Say whether a value can be kept as JSON and as TOML and come back the same."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)  # no UTF-8 for these
    return isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


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
    owners = []
    for name in registry.names(PARTS[section][0]):
        try:
            fields = fields_of(part_class(section, name))
        except ConfigError:  # an installed package's that does not work: no other's problem
            continue
        owners += [name] if key in fields else []
    return f"It belongs to {', '.join(owners)}." if owners else ""


def _limits(constraint: Any) -> list[str]:
    """Say in words what a constraint of annotated_types asks for."""
    if isinstance(constraint, at.Interval):
        return [limit for part in constraint for limit in _limits(part)]
    if isinstance(constraint, at.MultipleOf):
        return [f"that is a multiple of {constraint.multiple_of}"]
    if isinstance(constraint, (at.Len, at.MinLen, at.MaxLen)):
        least = getattr(constraint, "min_length", 0)
        most = getattr(constraint, "max_length", None)
        words = [f"of length >= {least}"] if least else []
        return [*words, f"of length <= {most}"] if most is not None else words
    names = {at.Gt: ("gt", ">"), at.Ge: ("ge", ">="), at.Lt: ("lt", "<"), at.Le: ("le", "<=")}
    for kind, (attribute, sign) in names.items():
        if isinstance(constraint, kind):
            return [f"{sign} {getattr(constraint, attribute)}"]
    return []
