"""A model of the user's own: `model.name = "module:function"`."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem

__all__ = ["UserModel"]


@dataclass(frozen=True, slots=True)
class UserModel:
    """A function of the user's that returns an `nn.Module`.

    `name` is "module:function", importable from the experiment's folder or the working directory.
    The function is called with `args`, and with `meta` (the data's shape) if it has such a parameter.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def build(self, meta: Meta) -> nn.Module:
        """Import and call the function.

        Raises `ConfigError` where that fails or gives something else than an `nn.Module`.
        """
        module_name, _, function_name = self.name.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError) as error:
            raise self._problem(f"an importable module:function ({error})") from error
        takes_meta = "meta" in inspect.signature(function).parameters
        try:
            model = function(**({"meta": meta} if takes_meta else {}), **self.args)
        except TypeError as error:
            raise self._problem(f"a function that accepts model.args ({error})") from error
        if not isinstance(model, nn.Module):
            raise self._problem(f"a function that returns an nn.Module, not {type(model).__name__}")
        return model

    def _problem(self, accepted: str) -> ConfigError:
        return ConfigError([Problem("model.name", self.name, accepted)])
