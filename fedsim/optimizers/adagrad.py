"""Adagrad (Duchi, Hazan and Singer, JMLR 2011)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import OptimizerState

__all__ = ["Adagrad"]


@dataclass(frozen=True, slots=True)
class Adagrad:
    """Steps divided by the root of the summed squared gradients."""

    lr: Annotated[float, Gt(0)] = 0.01
    eps: Annotated[float, Gt(0)] = 1e-10
    initial_accumulator: Annotated[float, Ge(0)] = 0.0

    full_batch: ClassVar = False
    is_linear: ClassVar = False

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        first = self.initial_accumulator
        return {"sum": [torch.full_like(p, first) for p in parameters]}

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        torch._foreach_addcmul_(state["sum"], gradients, gradients)
        scale = torch._foreach_sqrt(state["sum"])
        torch._foreach_add_(scale, self.eps)
        torch._foreach_addcdiv_(parameters, gradients, scale, value=-self.lr * lr_factor)
