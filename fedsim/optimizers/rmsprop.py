"""RMSprop (Tieleman and Hinton 2012)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

__all__ = ["Rmsprop"]


@dataclass(frozen=True, slots=True)
class Rmsprop:
    """Steps divided by the root of a running mean of squared gradients."""

    lr: Annotated[float, Gt(0)] = 0.001
    alpha: Annotated[float, Ge(0), Lt(1)] = 0.99
    eps: Annotated[float, Gt(0)] = 1e-8
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    full_batch: ClassVar = False

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr * lr_factor,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
        )
