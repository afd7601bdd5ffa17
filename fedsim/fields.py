"""Fields of dataclasses as settings: what they accept, and values checked against it.

Whatever a user writes into a table (an experiment, a schema of columns) is checked here, so that it
is refused in the same words everywhere, and every problem is found at once.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import annotated_types as at
from pydantic import TypeAdapter

from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest

__all__ = [
    "Source",
    "accepted",
    "fields_of",
    "fits",
    "nowhere",
    "read_table",
    "read_value",
    "required",
    "unknown",
]

#: says where the value at a path came from: a file, the command line
Source = Callable[[str], str]


def nowhere(path: str) -> str:
    """Say nothing of a path."""
    return ""


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


def read_table(
    path: str,
    kind: Any,
    given: Any,
    problems: list[Problem],
    source: Source = nowhere,
    *,
    name: str = "",
    owner: Callable[[str], str] = nowhere,
) -> Any:
    """Return a dataclass made of a table's values, or None where `problems` say what is wrong.

    `name`: of the part that the dataclass is. `owner(path)`: of a key that is not here.
    """
    if not isinstance(given, Mapping):
        problems.append(Problem(path, given, "a table", source=source(path)))
        return None
    known, before = fields_of(kind), len(problems)
    for key in given.keys() - known.keys():
        where = f"{path}.{key}"
        hint = suggest(str(key), known) or owner(where)
        problems.append(unknown(where, given[key], list(known), hint, source, name=name))
    for key in required(kind) - given.keys():
        accepts = f"{accepted(known[key])}; it has no default"
        problems.append(Problem(f"{path}.{key}", None, accepts, source=source(path)))
    values = {
        key: read_value(f"{path}.{key}", known[key], content, problems, source)
        for key, content in given.items()
        if key in known
    }
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ConfigError as error:  # from the part's own __post_init__
        # One that says its source itself has a reason: what was given holds a password.
        told = (dataclasses.replace(p, source=p.source or source(p.path)) for p in error.problems)
        problems += told
    except (TypeError, ValueError) as error:  # from the one of somebody else's part
        problems.append(Problem(path, dict(given), str(error), source=source(path)))
    return None


def unknown(
    path: str, value: Any, known: list[str], hint: str, source: Source = nowhere, *, name: str = ""
) -> Problem:
    """Return what is wrong with a key that a table does not have."""
    of = f" of {name}" if name else ""
    fields = ", ".join(["name", *known] if name else known) or "none"
    return Problem(path, value, f"no such key{of}; there are: {fields}", hint, source(path))


def required(kind: Any) -> set[str]:
    """Return the fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is missing and field.default_factory is missing
    }


def read_value(
    path: str, kind: Any, given: Any, problems: list[Problem], source: Source = nowhere
) -> Any:
    """Return a value as its annotation wants it, or None where `problems` say what is wrong."""
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
