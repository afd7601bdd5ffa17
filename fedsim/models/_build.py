"""Build a model the same way in every process."""

from collections.abc import Callable
from typing import Any

from torch import nn

from fedsim import rng
from fedsim.data import Meta
from fedsim.dropout import replace_dropout
from fedsim.errors import ConfigError, Problem
from fedsim.models._vector import layout

__all__ = ["build"]


def build(
    part: Any,
    meta: Meta,
    seed: int,
    change: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> nn.Module:
    """Build a model part for a data set; its initial weights depend on `seed` alone.

    `change` may put other layers in the place of some: later on, where a module's numbers are is
    remembered. Raises `ConfigError` for a model that does not fit the data or has nothing to learn.
    """
    with rng.torch_stream(seed, "init"):
        module: nn.Module = change(replace_dropout(part.build(meta)))
    if not layout(module):
        name = getattr(part, "name", type(part).__name__.lower())
        raise ConfigError([Problem("model.name", name, "a model with parameters; this has none")])
    return module
