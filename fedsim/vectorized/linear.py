"""Dense layers with a weight for each client, whose gradients lie in memory as the weights do.

What autograd takes for the gradient of a weight [out, in] is a product [in, out], transposed. An
optimizer that adds it to the weight reads one along and the other across: eight times as slow. The
product of the two the other way around is as fast, or faster where there are few outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["StackedProducts", "stacked_linear"]

# Stacked numbers of a weight, at least: below, what calls cost is more than what they save.
_LARGE = 2**17


class StackedProducts(TorchFunctionMode):
    """Within it dense layers under `vmap` over `clients` are `stacked_linear` where that pays."""

    def __init__(self, clients: int) -> None:
        super().__init__()
        self._least = _LARGE / clients

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call what torch was asked to call, or what stands in its place."""
        if func is nn.functional.linear and not kwargs and args[1].numel() >= self._least:
            apply: Any = _Linear.apply
            return apply(*args)
        return func(*args, **(kwargs or {}))


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight' + bias for each client: [clients, ..., out].

    x: [clients, ..., in]; weight: [clients, out, in]; bias: [clients, out].
    """
    apply: Any = _Product.apply
    rows: Tensor = apply(x.flatten(1, -2), weight, bias)
    return rows.view(*x.shape[:-1], weight.shape[1])


class _Linear(torch.autograd.Function):
    """`nn.functional.linear`, which is `stacked_linear` under `vmap`."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: under `vmap` it is another function whose gradient is taken."""

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[int | None], x: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, int]:
        inputs = _by_client(x, dims[0], info.batch_size)
        biases = None if bias is None else _by_client(bias, dims[2], info.batch_size)
        return stacked_linear(inputs, _by_client(weight, dims[1], info.batch_size), biases), 0


def _by_client(tensor: Tensor, dim: int | None, clients: int) -> Tensor:
    """Return a tensor with the clients as its first axis; without any, all of them share it."""
    if dim is None:
        return tensor.expand(clients, *tensor.shape)
    return tensor.movedim(dim, 0)


class _Product(torch.autograd.Function):
    """`stacked_linear` of x [clients, rows, in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if needs_x else None,
            torch.bmm(gradient.transpose(1, 2), x) if needs_weight else None,
            gradient.sum(dim=1) if needs_bias else None,
        )
