"""A `RunConfig` as plain data and back: JSON-able, complete, itself an experiment."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tomli_w

from fedsim import registry
from fedsim.config._build import build
from fedsim.config.schema import PARTS, RunConfig
from fedsim.models import UserModel

__all__ = ["dump_toml", "from_dict", "to_dict"]


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return every setting, defaults included; parts have a `name`. Unset values are left out."""
    content: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in PARTS:
            content[field.name] = _named(PARTS[field.name][0], value)
        elif dataclasses.is_dataclass(value):
            content[field.name] = _fields(value)
        else:
            content[field.name] = _plain(value)
    return content


def from_dict(content: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that `to_dict` described. Raises `ConfigError`."""
    return build(content)


def dump_toml(config: RunConfig) -> str:
    """Return the resolved configuration as a TOML file that `fedsim run` accepts."""
    return tomli_w.dumps(to_dict(config))


def _named(group: str, part: Any) -> dict[str, Any]:
    if isinstance(part, UserModel):
        return _fields(part)
    return {"name": registry.name_of(group, part), **_fields(part)}


def _fields(value: Any) -> dict[str, Any]:
    pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return {name: _plain(item) for name, item in pairs if item is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
