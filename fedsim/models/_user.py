"""A model of the user's own: `model.name = "module:function"`."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem

__all__ = ["UserModel"]


@dataclass(frozen=True, slots=True)
class UserModel:
    """A function of the user's that returns an `nn.Module`.

    `name` is "module:function", importable from the experiment's folder or the working directory.
    It is called with `args`, and with `meta` (what the data look like) if it has such a parameter.
    A class works as well as a function: `torch.nn:Linear`.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def build(self, meta: Meta) -> nn.Module:
        """Import and call the function.

        Raises `ConfigError` where that fails or gives something else than an `nn.Module`.
        """
        function = self._function()
        signature = inspect.signature(function)
        given = {"meta": meta} if "meta" in signature.parameters else {}
        try:
            signature.bind(**given, **self.args)
        except TypeError as error:
            raise self._problem(f"a function that accepts model.args ({error})") from error
        try:
            model = function(**given, **self.args)
        except Exception as error:
            raised = f"calling it raised {type(error).__name__}: {error}"
            raise self._problem(f"a function that builds a model; {raised}") from error
        if not isinstance(model, nn.Module):
            raise self._problem(f"a function that returns an nn.Module, not {type(model).__name__}")
        return model

    def _function(self) -> Callable[..., object]:
        module_name, _, function_name = self.name.partition(":")
        if not module_name or not function_name:
            raise self._problem("module:function, both named")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # the user's module may raise anything
            raised = f"importing {module_name} raised {type(error).__name__}: {error}"
            raise self._problem(f"an importable module:function; {raised}") from error
        function: Any = getattr(module, function_name, None)
        if not callable(function):
            found = "has no" if function is None else "has, but not to be called,"
            raise self._problem(f"a function; {module_name} {found} {function_name!r}")
        return cast(Callable[..., object], function)

    def _problem(self, accepted: str) -> ConfigError:
        return ConfigError([Problem("model.name", self.name, accepted)])
