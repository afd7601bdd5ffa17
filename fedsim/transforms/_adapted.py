"""Modules whose weights are made of others: a copy of a model, with what is trained in it.

Torch's own parametrizations do it: in whatever layer has a weight, `weight` becomes what a small
module returns for the original, which stays a parameter under another name.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedsim.models import layout

__all__ = ["adapted", "matrices", "named_parts", "part_name", "start"]

_ORIGINAL = ".original"
_PREFIX = "parametrizations."


def matrices(module: nn.Module) -> list[str]:
    """Return the names of the parameters that are trained and have two axes or more."""
    return [n for n, p in module.named_parameters() if p.requires_grad and p.dim() >= 2]


def adapted(
    module: nn.Module, names: list[str], make: Callable[[nn.Parameter], nn.Module]
) -> nn.Module:
    """Return a copy in which each named parameter is what `make(parameter)` returns for it.

    Raises `ValueError` for a parameter that several layers share.
    """
    found = copy.deepcopy(module)
    own = [id(p) for _, p in found.named_parameters(remove_duplicate=False)]
    for name in names:
        path, _, key = name.rpartition(".")
        owner = found.get_submodule(path)
        parameter = getattr(owner, key)
        if own.count(id(parameter)) > 1:
            raise ValueError(f"several of its layers share {name}")
        parametrize.register_parametrization(owner, key, make(parameter), unsafe=True)
    return found


def part_name(name: str, part: str) -> str:
    """Return what a tensor `part` of what makes a parameter is called in an adapted module.

    >>> part_name("0.weight", "mask")
    '0.parametrizations.weight.0.mask'
    """
    path, _, key = name.rpartition(".")
    return f"{path}.{_PREFIX}{key}.0.{part}".lstrip(".")


def named_parts(module: nn.Module, vectors: Tensor) -> dict[str, Tensor]:
    """Return flat parts of vectors [..., module] by what the model calls them.

    Those that it has not go by their own names.
    """
    shapes = layout(module)
    parts = torch.split(vectors, [math.prod(shape) for _, shape in shapes], dim=-1)
    return {_original(name): part for (name, _), part in zip(shapes, parts, strict=True)}


def start(module: nn.Module, known: dict[str, Tensor]) -> Tensor:
    """Return the vector of an adapted module that has these parts, and zero in all others."""
    parts = [
        known[_original(name)].flatten().float()
        if _original(name) in known
        else torch.zeros(math.prod(shape))
        for name, shape in layout(module)
    ]
    return torch.cat(parts)


def _original(name: str) -> str:
    """Return what a tensor of an adapted module is called in the model; itself, if it is as there.

    >>> _original("0.parametrizations.weight.original"), _original("0.bias")
    ('0.weight', '0.bias')
    """
    if not name.endswith(_ORIGINAL):
        return name
    path, _, key = name.removesuffix(_ORIGINAL).rpartition(_PREFIX)
    return path + key
