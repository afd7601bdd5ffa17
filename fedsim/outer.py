"""Steps of plain SGD on large dense layers, without their gradients.

The gradient of a dense layer's weights is a product of few rows: G' X, of output gradients and
inputs. As a tensor of its own it is written, read and thrown away, which for a layer larger than
the cache takes longer than to compute it. SGD without memory only adds a multiple of it to the
weights, and that is one product: W += -lr G' X.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedsim import products
from fedsim.core import Optimizer, OptimizerState, Recipe, Task

__all__ = ["Tape", "add_product", "is_plain", "layers_of", "move_of", "taped"]

_LEAST = 2**16  # weights of a layer; smaller ones stay in the cache
_FEW_ROWS, _WIDE, _PIECE = 16, 2**13, 2**17  # of a batch; inputs of a layer; weights in a piece


class Tape:
    """What a step's dense layers saw: inputs and output gradients, until they are applied."""

    def __init__(self) -> None:
        #: Depends on nothing, and every taped layer on it: so that none is left out going back.
        self.token = torch.zeros((), requires_grad=True)
        self.seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    @torch.no_grad()
    def apply(self, optimizer: Optimizer, lr_factor: float) -> None:
        """Step the weights of every layer, once for each time it was used."""
        if not self.seen:
            return
        scale = move_of(optimizer, lr_factor)
        for layer, x, gradient in self.seen:
            add_product(layer, gradient, x, scale)
        self.seen.clear()


def move_of(optimizer: Optimizer, lr_factor: float) -> float:
    """Return how far a linear optimizer without memory steps for a gradient of 1."""
    moved = torch.zeros(1)
    optimizer.step([moved], [torch.ones(1)], {}, lr_factor)
    return float(moved)


def add_product(layer: nn.Linear, gradient: Tensor, x: Tensor, scale: float) -> None:
    """Add scale x gradient' x, [..., outputs] and [..., inputs], to a layer's weights."""
    left, right = gradient.reshape(-1, layer.out_features), x.reshape(-1, layer.in_features)
    for own in _pieces(layer, len(left)):
        layer.weight[own].addmm_(left[:, own].t(), right, alpha=scale)


def is_plain(task: Task, recipe: Recipe, state: OptimizerState) -> bool:
    """Say whether steps only add a multiple of the gradient to the weights."""
    is_sgd = task.optimizer.is_linear and not state
    return is_sgd and not (recipe.adjust or task.l1 or task.l2)


def layers_of(task: Task, recipe: Recipe, state: OptimizerState) -> list[nn.Linear]:
    """List the layers that can be stepped so; none where steps are more than SGD without memory."""
    if not is_plain(task, recipe, state):
        return []
    users: dict[int, int] = {}
    for module in task.module.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    return [
        module
        for module in task.module.modules()
        if type(module) is nn.Linear
        and module.weight.requires_grad
        and module.weight.numel() >= _LEAST
        and users[id(module.weight)] == 1
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    ]


@contextmanager
def taped(layers: Sequence[nn.Linear]) -> Iterator[Tape]:
    """Have layers leave what their weights' gradients are made of on a tape, and no gradients."""
    tape = Tape()
    for layer in layers:
        layer.forward = _forward(layer, tape)  # type: ignore[method-assign]
    try:
        yield tape
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Linear, tape: Tape) -> Any:
    apply: Any = _Product.apply
    return lambda x: apply(x, layer.bias, tape.token, layer, tape)


class _Product(torch.autograd.Function):
    """A dense layer whose weights are no input of it, as far as autograd knows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, _: Tensor, layer: nn.Linear, tape: Tape
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.tape = layer, tape
        return products.linear(x, layer.weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        ctx.tape.seen.append((ctx.layer, x, gradient))
        needs_x, needs_bias = ctx.needs_input_grad[:2]
        rows = gradient.reshape(-1, ctx.layer.out_features)
        inner = _inner(ctx.layer, rows).view(x.shape) if needs_x else None
        outer = rows.sum(dim=0) if needs_bias else None
        return inner, outer, None, None, None


def _inner(layer: nn.Linear, rows: Tensor) -> Tensor:
    """Return the products of output gradients and weights: rows [rows, inputs]."""
    first, *more = _pieces(layer, len(rows))
    inner = products.linear(rows[:, first], layer.weight[first].t())
    for own in more:
        inner.addmm_(rows[:, own], layer.weight[own])
    return inner


def _pieces(layer: nn.Linear, rows: int) -> list[slice]:
    """Cut a layer's outputs into pieces whose weights stay in the cache, where that is faster.

    It is on a CPU where few rows meet very many inputs, as behind a convolution: what MKL does with
    these shapes takes up to twice as long. Where oneDNN is the faster one, whole layers are: 0.4 in
    place of 0.8 ms.
    """
    outputs, inputs = layer.weight.shape
    is_wide = layer.weight.device.type == "cpu" and rows <= _FEW_ROWS and inputs >= _WIDE
    is_cut = is_wide and not products.is_onednn_faster(layer.weight)
    width = max(1, _PIECE // inputs) if is_cut else outputs
    return [slice(start, start + width) for start in range(0, outputs, width)]
