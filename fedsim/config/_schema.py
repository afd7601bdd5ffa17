"""The JSON schema of an experiment file, for editors; from the annotations that `load` checks."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from fedsim import registry
from fedsim.config._load import IMPLIED
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError
from fedsim.fields import fields_of, required

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of an experiment file.

    It accepts every file that `load` accepts. What depends on several settings or on the data is
    checked only there.
    """
    properties: dict[str, Any] = {}
    for name, kind in fields_of(RunConfig).items():
        if name in PARTS:
            properties[name] = _section(name)
        elif dataclasses.is_dataclass(kind):
            properties[name] = _table(kind)
        else:
            properties[name] = _field(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fedsim experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _section(section: str) -> dict[str, Any]:
    """Describe a section as one of its parts; the name may be left out where it is clear."""
    group, default = PARTS[section]
    parts = []
    for name in registry.names(group):
        try:
            part = _table(registry.load(group, name), name)
        except ConfigError:  # an installed package's that does not work: no other's problem
            continue
        implied = [key for of, key, part_name in IMPLIED if (of, part_name) == (section, name)]
        if implied:
            ways = [{"required": ["name"]}, *({"required": [key]} for key in implied)]
            part["anyOf"] = ways
        elif name != default:
            part["required"] = ["name", *part.get("required", [])]
        parts.append(part)
    if section == "model":
        parts.append(_user_model())
    return {"oneOf": parts}


def _table(kind: Any, name: str = "") -> dict[str, Any]:
    """Describe a dataclass; a part has a name too, in either spelling."""
    fields = {key: _field(annotation) for key, annotation in fields_of(kind).items()}
    spellings = list(dict.fromkeys([name, name.replace("-", "_")]))
    schema = {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").partition("\n")[0],
        "properties": {"name": {"enum": spellings}, **fields} if name else fields,
        "additionalProperties": False,
    }
    return schema | _required(sorted(required(kind)))


def _required(keys: Sequence[str]) -> dict[str, Any]:
    return {"required": list(keys)} if keys else {}


def _user_model() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A function of your own that returns an nn.Module.",
        "properties": {
            "name": {"type": "string", "pattern": ":", "description": "module:function"},
            "args": {"type": "object"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def _field(annotation: Any) -> Mapping[str, Any]:
    return {} if annotation is Any else TypeAdapter(annotation).json_schema()
