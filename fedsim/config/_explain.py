"""What a part is, in words and as JSON schema: all of it from the part's own file."""

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from fedsim import registry
from fedsim.config._build import accepted, fields_of
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem

__all__ = ["explain", "json_schema"]


def explain(name: str) -> list[dict[str, Any]]:
    """Describe every part of a name: `fedadam`, or `strategies.fedadam` to be precise.

    Raises `ConfigError` for a name that nothing has.
    """
    group, _, key = name.rpartition(".")
    key = key.replace("_", "-")
    groups = [group] if group in registry.GROUPS else list(registry.GROUPS)
    found = [_describe(g, key) for g in groups if key in registry.names(g)]
    if not found:
        every = sorted({part for g in registry.GROUPS for part in registry.names(g)})
        hint = registry.suggest(key, every)
        raise ConfigError([Problem("name", name, f"one of {', '.join(every)}", hint)])
    return found


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of an experiment file."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for field, kind in fields_of(RunConfig).items():
        if field in PARTS:
            group = PARTS[field][0]
            parts = [_part_schema(group, name, definitions) for name in registry.names(group)]
            if field == "model":
                parts.append(_user_model_schema())
            properties[field] = {"oneOf": parts}
        else:
            properties[field] = _schema(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fedsim experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _describe(group: str, name: str) -> dict[str, Any]:
    kind: Any = registry.load(group, name)
    module = sys.modules[kind.__module__]
    text = (module.__doc__ or "").strip()
    summary, _, citation = text.partition("\n\n")
    fields = [
        {
            "name": field.name,
            "default": _default(field),
            "accepted": accepted(annotation),
        }
        for field, annotation in zip(_init_fields(kind), fields_of(kind).values(), strict=True)
    ]
    return {
        "group": group,
        "name": name,
        "summary": " ".join(summary.split()),
        "citation": citation.strip(),
        "doc": inspect.getdoc(kind) or "",
        "fields": fields,
        "legality": _legality(kind),
        "section": next((s for s, (g, _) in PARTS.items() if g == group), group),
    }


def _init_fields(kind: Any) -> list[Any]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _legality(kind: Any) -> dict[str, str]:
    needs = getattr(kind, "needs", None)
    texts = {
        "sum": "needs only the sum of the updates: fits folding, secure sums, central DP",
        "updates": "needs every single update: no folding, no secure sum",
    }
    return {"needs": texts[needs]} if needs in texts else {}


def _part_schema(group: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    kind: Any = registry.load(group, name)
    fields = {key: _schema(annotation, definitions) for key, annotation in fields_of(kind).items()}
    return {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").splitlines()[0],
        "properties": {"name": {"const": name}, **fields},
        "additionalProperties": False,
    }


def _user_model_schema() -> dict[str, Any]:
    name = {"type": "string", "pattern": ":"}
    return {"type": "object", "properties": {"name": name, "args": {"type": "object"}}}


def _schema(annotation: Any, definitions: dict[str, Any]) -> Mapping[str, Any]:
    if annotation is Any:
        return {}
    schema = TypeAdapter(annotation).json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    return schema
