"""AdamW (Loshchilov and Hutter, ICLR 2019)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

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

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.AdamW(
            parameters,
            lr=self.lr * lr_factor,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
