"""FedRMSprop: RMSprop on the server, fed by the mean client update.

Tieleman and Hinton, lecture 6.5 of COURSERA "Neural networks for machine learning", 2012, in the
frame of Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 2: FedAdam without
momentum.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedRMSprop"]


@dataclass(frozen=True, slots=True)
class FedRMSprop:
    """Divide the mean update by the root of its mean square; `lr`: server learning rate."""

    lr: Annotated[float, Gt(0)] = 0.01
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    needs: ClassVar = "sum"

    def init(self, model: Tensor) -> State:
        """Start with v = tau^2."""
        return {"model": model, "v": torch.full_like(model, self.tau**2)}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Take one step of RMSprop; the mean update stands for the negative gradient."""
        g = total.mean()
        v = self.beta2 * state["v"] + (1 - self.beta2) * g**2
        return {"model": state["model"] + self.lr * g / (v.sqrt() + self.tau), "v": v}
