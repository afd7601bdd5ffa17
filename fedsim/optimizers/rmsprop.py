"""RMSprop (Tieleman and Hinton 2012)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import OptimizerState

__all__ = ["Rmsprop"]


@dataclass(frozen=True, slots=True)
class Rmsprop:
    """Steps divided by the root of a running mean of squared gradients."""

    lr: Annotated[float, Gt(0)] = 0.001
    alpha: Annotated[float, Ge(0), Lt(1)] = 0.99
    eps: Annotated[float, Gt(0)] = 1e-8
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    full_batch: ClassVar = False
    is_linear: ClassVar = False

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        state = {"square": [torch.zeros_like(p) for p in parameters]}
        if self.momentum:
            state["momentum"] = [torch.zeros_like(p) for p in parameters]
        return state

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        lr, squares = self.lr * lr_factor, state["square"]
        torch._foreach_mul_(squares, self.alpha)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.alpha)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_add_(scale, self.eps)
        if not self.momentum:
            torch._foreach_addcdiv_(parameters, gradients, scale, value=-lr)
            return
        buffers = state["momentum"]
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_addcdiv_(buffers, gradients, scale)
        torch._foreach_add_(parameters, buffers, alpha=-lr)
