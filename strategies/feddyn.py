"""FedDyn: the server takes off what clients' own penalties have pushed the model by so far.

Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, Algorithm 1: h <- h -
alpha / m sum_k (theta_k - theta) over the cohort, with m the population, and theta <- mean of the
cohort's theta_k - h / alpha. The clients' half is `clients/feddyn.py`; all clients count alike.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedDyn"]


@dataclass(frozen=True, slots=True)
class FedDyn:
    """Move by the mean update and by what is owed; `alpha` must be that of the clients."""

    alpha: Annotated[float, Gt(0)] = 0.01

    needs: ClassVar = "sum"
    goes_with: ClassVar = ("feddyn",)

    def init(self, model: Tensor) -> State:
        """Start with h = 0."""
        return {"model": model, "h": torch.zeros_like(model)}

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send alpha: both halves must have the same."""
        return {"alpha": torch.tensor([self.alpha])}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Take the mean of the clients' models, all alike, less h / alpha."""
        h = state["h"] - self.alpha * total.vector / (ctx.population or ctx.cohort)
        return {"model": state["model"] + total.vector / total.count - h / self.alpha, "h": h}
