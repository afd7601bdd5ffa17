"""FedAvgM: FedAvg with momentum on the server.

Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual
classification", 2019, section 4.3: v <- beta v + mean update, w <- w + lr v (heavy ball, not
Nesterov). The paper has lr = 1.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedAvgM"]


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """Momentum on the server; `lr`: server learning rate; `momentum`: beta of the paper."""

    lr: Annotated[float, Gt(0)] = 1.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9

    needs: ClassVar = "sum"

    def init(self, model: Tensor) -> State:
        """Start with no momentum."""
        return {"model": model, "m": torch.zeros_like(model)}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Add the mean update to the momentum and move by it."""
        m = self.momentum * state["m"] + total.mean()
        return {"model": state["model"] + self.lr * m, "m": m}
