"""Stochastic gradient descent, with momentum where asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from fedsim.errors import ConfigError, Problem

__all__ = ["Sgd"]


@dataclass(frozen=True, slots=True)
class Sgd:
    """Steps along the negative gradient of a batch.

    `momentum` is heavy-ball: buffer = momentum x buffer + (1 - dampening) x gradient; `nesterov`
    looks ahead (Sutskever et al., ICML 2013, in torch's form).
    """

    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    dampening: Annotated[float, Ge(0), Le(1)] = 0.0
    nesterov: bool = False

    full_batch: ClassVar = False

    def __post_init__(self) -> None:
        """Refuse Nesterov's look-ahead without momentum or with dampening."""
        if self.nesterov and (self.momentum == 0 or self.dampening):
            accepted = "false, or true with optimizer.momentum above 0 and optimizer.dampening 0"
            raise ConfigError([Problem("optimizer.nesterov", self.nesterov, accepted)])

    def build(
        self, parameters: Iterable[nn.Parameter], lr_factor: float = 1.0
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer, its learning rate times the schedule's factor."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr * lr_factor,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
        )
