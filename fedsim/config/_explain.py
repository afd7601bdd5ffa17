"""What a part is, in words: all of it from the part's own file."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.config._legality import legality
from fedsim.config.schema import PARTS, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.fields import accepted, fields_of, required

__all__ = ["explain"]


def explain(name: str) -> list[dict[str, Any]]:
    """Describe every part of a name: `fedadam`; to be precise `strategies.sgd` or `strategy.sgd`.

    A table of settings is described too: `rounds`, `secure_sum`. Raises `ConfigError` for a name
    that nothing has.
    """
    if name in (tables := _tables()):
        return [_describe_table(name, tables[name])]
    prefix, _, key = name.rpartition(".")
    key = key.replace("_", "-")
    groups = _groups(prefix)
    found = [_describe(group, key) for group in groups if key in registry.names(group)]
    if not found:
        known = {part for group in groups for part in registry.names(group)}
        every = sorted(known if prefix else known | tables.keys())
        hint = registry.suggest(key, every)
        raise ConfigError([Problem("name", name, f"one of {', '.join(every)}", hint)])
    return found


def _tables() -> dict[str, Any]:
    """Return the tables of settings that are no parts: key -> dataclass."""
    return {
        name: kind for name, kind in fields_of(RunConfig).items() if dataclasses.is_dataclass(kind)
    }


def _describe_table(name: str, kind: Any) -> dict[str, Any]:
    summary, _, doc = (inspect.getdoc(kind) or "").partition("\n\n")
    return {
        "group": "settings",
        "name": name,
        "summary": " ".join(summary.split()),
        "citation": "",
        "doc": doc,
        "fields": _fields(kind),
        "legality": {},
        "section": name,
        "file": str(Path(inspect.getsourcefile(kind) or "").resolve()),
    }


def _groups(prefix: str) -> list[str]:
    """Return the groups that a prefix means: a group, the section it is configured in, or all."""
    if not prefix:
        return list(registry.GROUPS)
    sections = {section: group for section, (group, _) in PARTS.items()}
    known = {group: group for group in registry.GROUPS} | sections
    if prefix not in known:
        hint = registry.suggest(prefix, known)
        raise ConfigError([Problem("group", prefix, f"one of {', '.join(known)}", hint)])
    return [known[prefix]]


def _describe(group: str, name: str) -> dict[str, Any]:
    kind: Any = registry.load(group, name)
    module = sys.modules[kind.__module__]
    text = (module.__doc__ or "").strip()
    summary, _, citation = text.partition("\n\n")
    return {
        "group": group,
        "name": name,
        "summary": " ".join(summary.split()),
        "citation": citation.strip(),
        "doc": inspect.getdoc(kind) or "",
        "fields": _fields(kind),
        "legality": _legality(group, name, kind),
        "section": next((s for s, (g, _) in PARTS.items() if g == group), group),
        "file": str(Path(inspect.getsourcefile(kind) or "").resolve()),
    }


def _fields(kind: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": field.name,
            "default": _default(field),
            "accepted": accepted(annotation),
            "required": field.name in required(kind),
        }
        for field, annotation in zip(_init_fields(kind), fields_of(kind).values(), strict=True)
    ]


def _init_fields(kind: Any) -> list[Any]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _legality(group: str, name: str, kind: Any) -> dict[str, str]:
    needs = getattr(kind, "needs", None)
    texts = {
        "sum": "only the sum of the updates: fits folding, secure sums, central DP",
        "updates": "every single update: no folding, no secure sum",
    }
    flags = legality(group, name).items()
    asked = {"needs": texts[needs]} if needs in texts else {}
    return asked | {flag: f"no: {f.reason}" if f.reason else "yes" for flag, f in flags}
