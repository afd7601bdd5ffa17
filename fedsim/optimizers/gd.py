"""Gradient descent on the whole shard."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import nn

__all__ = ["Gd"]


@dataclass(frozen=True, slots=True)
class Gd:
    """Full-batch gradient descent: one step is one pass over the shard, no batches."""

    lr: Annotated[float, Gt(0)] = 0.1

    full_batch: ClassVar = True

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.SGD(parameters, lr=self.lr * lr_factor)
