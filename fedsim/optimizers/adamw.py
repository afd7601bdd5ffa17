"""AdamW (Loshchilov and Hutter, ICLR 2019)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import OptimizerState
from fedsim.optimizers import _adaptive as adaptive

__all__ = ["AdamW"]


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay."""

    lr: Annotated[float, Gt(0)] = 0.001
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: Annotated[float, Gt(0)] = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.01

    full_batch: ClassVar = False
    is_linear: ClassVar = False

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        return adaptive.start(parameters, lead)

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        lr, betas = self.lr * lr_factor, (self.beta1, self.beta2)
        torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        adaptive.step(parameters, gradients, state, lr, betas, self.eps)
