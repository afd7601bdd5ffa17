"""Adam (Kingma and Ba, ICLR 2015)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

__all__ = ["Adam"]


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam with bias correction; its state lives one round unless `local.keep_optimizer`."""

    lr: Annotated[float, Gt(0)] = 0.001
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: Annotated[float, Gt(0)] = 1e-8

    full_batch: ClassVar = False

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.Adam(
            parameters,
            lr=self.lr * lr_factor,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )
