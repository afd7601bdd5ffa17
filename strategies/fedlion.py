"""FedLion: Lion on the server, fed by the mean client update.

Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, Algorithm 2 (without
weight decay): the step is the sign of a mixture of momentum and update; the momentum follows with a
rate of its own.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedLion"]


@dataclass(frozen=True, slots=True)
class FedLion:
    """Move every coordinate by `lr`, in the direction of momentum and mean update together."""

    lr: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99

    needs: ClassVar = "sum"

    def init(self, model: Tensor) -> State:
        """Start with no momentum."""
        return {"model": model, "m": torch.zeros_like(model)}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Take one step of Lion; the mean update stands for the negative gradient."""
        g, m = total.mean(), state["m"]
        move = (self.beta1 * m + (1 - self.beta1) * g).sign()
        return {
            "model": state["model"] + self.lr * move,
            "m": self.beta2 * m + (1 - self.beta2) * g,
        }
