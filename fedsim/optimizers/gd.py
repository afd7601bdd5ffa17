"""Gradient descent on the whole shard."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from fedsim.core import OptimizerState

__all__ = ["Gd"]


@dataclass(frozen=True, slots=True)
class Gd:
    """Full-batch gradient descent: one step is one pass over the shard, no batches."""

    lr: Annotated[float, Gt(0)] = 0.1

    full_batch: ClassVar = True
    is_linear: ClassVar = True

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        return {}

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        torch._foreach_add_(parameters, gradients, alpha=-self.lr * lr_factor)
