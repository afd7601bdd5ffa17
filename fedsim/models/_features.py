"""A model's representation of an input: what goes into its last layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["features", "features_of", "no_features"]


def no_features(module: nn.Module) -> str:
    """Say why a model has no representation, "" if it has one.

    >>> no_features(nn.Linear(2, 2))
    'it is one layer: nothing is learned before the last one'
    """
    head = _head(module)
    if not isinstance(head, nn.Linear):
        return f"its last layer is {type(head).__name__}, not a dense one"
    others = [p for p in module.parameters() if all(p is not own for own in head.parameters())]
    return "" if others else "it is one layer: nothing is learned before the last one"


def features(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a model's representation of inputs, one row each, and its output."""
    with _seen(module) as inputs:
        output: Tensor = module(x)
    return inputs[-1].reshape(len(x), -1), output


@torch.no_grad()
def features_of(module: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the representation by the module with other numbers, in its mode of evaluation."""
    was_training = module.training
    module.eval()
    try:
        with _seen(module) as inputs:
            functional_call(module, dict(tensors), (x,))
    finally:
        module.train(was_training)
    return inputs[-1].reshape(len(x), -1)


@contextmanager
def _seen(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the last layer."""
    found: list[Tensor] = []

    def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])

    handle = _head(module).register_forward_pre_hook(see)
    try:
        yield found
    finally:
        handle.remove()


def _head(module: nn.Module) -> nn.Module:
    """Return the last layer that has parameters of its own."""
    return [part for part in module.modules() if list(part.parameters(recurse=False))][-1]
