"""Stochastic gradient descent, with momentum where asked."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from fedsim.core import OptimizerState, per_client
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
    is_linear: ClassVar = True

    def __post_init__(self) -> None:
        """Refuse Nesterov's look-ahead without momentum or with dampening."""
        if self.nesterov and (self.momentum == 0 or self.dampening):
            accepted = "false, or true with optimizer.momentum above 0 and optimizer.dampening 0"
            raise ConfigError([Problem("optimizer.nesterov", self.nesterov, accepted)])

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step; `lead` axes of the parameters are clients."""
        if not self.momentum:
            return {}
        state = {"momentum": [torch.zeros_like(p) for p in parameters]}
        if self.dampening:  # torch's first step is undamped: who has taken it is remembered
            state["begun"] = [per_client(p, lead) for p in parameters]
        return state

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place; `lr_factor` is the schedule's."""
        moves = list(gradients)
        if self.momentum:
            buffers = state["momentum"]
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, self._damped(gradients, state))
            moves = buffers
        if self.nesterov:
            moves = list(torch._foreach_add(gradients, moves, alpha=self.momentum))
        torch._foreach_add_(parameters, moves, alpha=-self.lr * lr_factor)

    def _damped(self, gradients: list[Tensor], state: OptimizerState) -> list[Tensor]:
        if not self.dampening:
            return gradients
        begun = zip(gradients, state["begun"], strict=True)
        damped = [g * (1 - self.dampening * b).to(g) for g, b in begun]
        for flag in state["begun"]:
            flag.fill_(1.0)
        return damped
