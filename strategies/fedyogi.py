"""FedYogi: Yogi on the server, fed by the mean client update.

Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 2. As in the paper there is
no bias correction and v starts at tau^2; `tau` bounds the step where a coordinate has hardly moved.
Deviation: the mean weighs clients by their examples, the algorithm's weighs them alike.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedYogi"]


@dataclass(frozen=True, slots=True)
class FedYogi:
    """Yogi on the server, fed by the mean client update.

    `lr`: server learning rate (eta); `beta1`, `beta2`, `tau` as in the paper.
    """

    lr: Annotated[float, Gt(0)] = 0.1
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    needs: ClassVar = "sum"

    def init(self, model: Tensor) -> State:
        """Start with no momentum and v = tau^2."""
        zero = torch.zeros_like(model)
        return {"model": model, "m": zero, "v": zero + self.tau**2}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Take one step of Yogi; the mean update stands for the negative gradient."""
        g = total.mean()
        m = self.beta1 * state["m"] + (1 - self.beta1) * g
        v = state["v"] - (1 - self.beta2) * g**2 * torch.sign(state["v"] - g**2)
        return {"model": state["model"] + self.lr * m / (v.sqrt() + self.tau), "m": m, "v": v}
