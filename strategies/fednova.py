"""FedNova: updates are divided by how many steps they took before they are averaged.

Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated optimization",
NeurIPS 2020, equation 8: x <- x - tau_eff sum_i p_i eta d_i with tau_eff = sum_i p_i |a_i|_1. The
clients' half, `clients/fednova.py`, sends eta d_i and |a_i|_1. With `momentum` it is the paper's
server momentum.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["LENGTH_UNIT", "FedNova"]

#: What the lane counts in: it stays small beside the bound of an update's coordinates.
LENGTH_UNIT = 2.0**20


@dataclass(frozen=True, slots=True)
class FedNova:
    """Move by the mean normalized update times the mean number of steps; `lr`: server's rate."""

    lr: Annotated[float, Gt(0)] = 1.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    needs: ClassVar = "sum"
    is_sgd: ClassVar = True
    goes_with: ClassVar = ("fednova",)

    def init(self, model: Tensor) -> State:
        """Start with no momentum."""
        return {"model": model, "m": torch.zeros_like(model)}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move by tau_eff times the mean normalized update."""
        effective = total.lanes["length"] * LENGTH_UNIT / total.weight
        m = self.momentum * state["m"] + effective * total.mean()
        return {"model": state["model"] + self.lr * m, "m": m}
