"""SCAFFOLD: the server keeps the mean direction of all clients, and clients correct theirs by it.

Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning", ICML 2020,
Algorithm 1. The server's half: x <- x + eta_g mean(dy_i), c <- c + 1/N sum(dc_i) (lines 16, 17).
The clients' half is `clients/scaffold.py`. Deviation: the mean of models weighs clients by their
examples, as FedAvg does; the sum of controls weighs them alike, as the paper does.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["Scaffold"]


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Move by the mean update and keep the mean of the clients' controls; `lr`: eta_g."""

    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "sum"
    is_sgd: ClassVar = True
    goes_with: ClassVar = ("scaffold",)

    def init(self, model: Tensor) -> State:
        """Start with a control of zero."""
        return {"model": model, "control": torch.zeros_like(model)}

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send the control beside the model."""
        return {"control": state["control"]}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move by the mean update, and the control by the clients' changes over the population."""
        change = total.lanes["control"] / (ctx.population or ctx.cohort)
        return {
            "model": state["model"] + self.lr * total.mean(),
            "control": state["control"] + change,
        }
