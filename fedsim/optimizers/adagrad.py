"""Adagrad (Duchi, Hazan and Singer, JMLR 2011)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import nn

__all__ = ["Adagrad"]


@dataclass(frozen=True, slots=True)
class Adagrad:
    """Steps divided by the root of the summed squared gradients."""

    lr: Annotated[float, Gt(0)] = 0.01
    eps: Annotated[float, Gt(0)] = 1e-10
    initial_accumulator: Annotated[float, Ge(0)] = 0.0

    full_batch: ClassVar = False

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.Adagrad(
            parameters,
            lr=self.lr * lr_factor,
            eps=self.eps,
            initial_accumulator_value=self.initial_accumulator,
        )
