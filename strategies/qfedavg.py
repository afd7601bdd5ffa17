"""q-FedAvg: clients with a larger loss count for more.

Li et al., "Fair resource allocation in federated learning", ICLR 2020, Algorithm 2: w <- w - sum
Delta_k / sum h_k. The clients' half, `clients/qfedavg.py`, sends both over the Lipschitz constant.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["QFedAvg"]


@dataclass(frozen=True, slots=True)
class QFedAvg:
    """Move by the sum of loss^q times the updates, over the sum of h; `q` = 0: all count alike."""

    q: Annotated[float, Ge(0)] = 0.2

    needs: ClassVar = "sum"
    goes_with: ClassVar = ("qfedavg",)

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send q: both halves must have the same."""
        return {"q": torch.tensor([self.q])}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move by the sum of what clients sent over the sum of their h."""
        return {"model": state["model"] + total.vector / total.lanes["h"]}
