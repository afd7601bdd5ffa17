"""A module's floating-point parameters and buffers as one flat float32 vector, and back.

The order is that of the module's definition: parameters first, then buffers. A tensor that the
module holds under several names (tied weights) counts once, under its first name. Integer buffers
(such as a batch counter) stay where they are: they are not learned and do not add.
"""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = [
    "get_change",
    "get_counters",
    "get_vector",
    "layout",
    "named",
    "set_counters",
    "set_vector",
]


_places: WeakKeyDictionary[nn.Module, list[tuple[str, dict[str, Any], str]]] = WeakKeyDictionary()


def layout(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """List (name, shape) in the order of the vector."""
    return [(name, tuple(tensor.shape)) for name, tensor in _tensors(module)]


def get_vector(module: nn.Module) -> Tensor:
    """Return a copy of the module's numbers: flat float32, on the module's device."""
    return torch.cat([tensor.detach().reshape(-1).float() for _, tensor in _tensors(module)])


@torch.no_grad()
def get_change(module: nn.Module, vector: Tensor) -> Tensor:
    """Return the module's numbers less those of `vector`, which is on the module's device."""
    change = torch.empty_like(vector)
    tensors = [tensor for _, tensor in _tensors(module)]
    sizes = [tensor.numel() for tensor in tensors]
    parts = torch.split(vector, sizes), torch.split(change, sizes)
    for tensor, before, out in zip(tensors, *parts, strict=True):
        shape = tensor.shape
        torch.sub(tensor.float(), before.view(shape), out=out.view(shape))
    return change


@torch.no_grad()
def set_vector(module: nn.Module, vector: Tensor) -> None:
    """Set the module's numbers from a vector that `get_vector` could have returned.

    Raises `ValueError` when the vector has another length.
    """
    tensors = [tensor for _, tensor in _tensors(module)]
    size = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (size,):
        raise ValueError(f"vector of shape {tuple(vector.shape)} for a model of {size} numbers")
    sizes = [tensor.numel() for tensor in tensors]
    parts = torch.split(vector.to(tensors[0].device), sizes)
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def named(module: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """Return a vector as the module's named tensors: views, not copies."""
    shapes = layout(module)
    sizes = [torch.Size(shape).numel() for _, shape in shapes]
    parts = torch.split(vector, sizes)
    return {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}


def get_counters(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the integer buffers, which are not part of the vector."""
    buffers = module.named_buffers()
    return {name: b.clone() for name, b in buffers if not b.is_floating_point()}


@torch.no_grad()
def set_counters(module: nn.Module, counters: dict[str, Tensor]) -> None:
    """Put integer buffers back, so that a client sees nothing of whoever used the module before."""
    buffers = dict(module.named_buffers()) if counters else {}
    for name, counter in counters.items():
        buffers[name].copy_(counter)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if module not in _places:
        _places[module] = _find(module)
    for name, owner, key in _places[module]:
        yield name, owner[key]


def _find(module: nn.Module) -> list[tuple[str, dict[str, Any], str]]:
    """List where the tensors of the vector are: to walk a module for every client costs."""
    names = [name for name, _ in module.named_parameters()]  # a tied parameter comes once
    names += [name for name, buffer in module.named_buffers() if buffer.is_floating_point()]
    found = []
    for name in names:
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        found.append((name, owner._parameters if key in owner._parameters else owner._buffers, key))
    return found
