"""FedAvg: the server moves by the weighted mean of the client updates.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, Algorithm 1. With `lr` = 1 the new model is the weighted mean of the clients' models;
other values are the server learning rate of Reddi et al., ICLR 2021, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedAvg"]


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Move by the mean client update, weighted by examples; `lr`: server learning rate."""

    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "sum"
    is_sgd: ClassVar = True

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move by the mean update."""
        return {"model": state["model"] + self.lr * total.mean()}
