"""FedBuff: the server steps whenever a buffer of updates is full, and waits for nobody.

Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022, Algorithm
1: `rounds.cohort` clients train at any time (the concurrency M), each from the model that was the
newest when it began; every `buffer` (K) arrivals the model moves by `lr` times the mean of their
updates. An update that is tau steps old counts 1 / sqrt(1 + tau) (section 5, "staleness scaling").
The paper counts all clients alike; `weights` = "examples" weighs them by examples, as FedAvg does.
With K = M and equally fast clients nothing is stale, and it is FedAvg.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedBuff"]


@dataclass(frozen=True, slots=True)
class FedBuff:
    """Step by every `buffer` updates that arrive; `rounds.cohort` clients train at any time.

    `rounds.count` counts steps of the server. `staleness`: "inverse-sqrt" scales an update that is
    t steps old by 1 / sqrt(1 + t), "none" by 1. `weights`: "equal", or by "examples".
    """

    buffer: Annotated[int, Ge(1)] = 10
    lr: Annotated[float, Gt(0)] = 1.0
    staleness: Literal["inverse-sqrt", "none"] = "inverse-sqrt"
    weights: Literal["equal", "examples"] = "equal"

    needs: ClassVar = "sum"
    schedule: ClassVar = "asynchronous"
    counts_from: ClassVar = "start"
    contract: ClassVar = {"buffer": 2}

    def scale(self, staleness: int) -> float:
        """Return what an update counts for that began so many steps ago.

        >>> FedBuff().scale(3)
        0.5
        """
        return 1.0 if self.staleness == "none" else float((1 + staleness) ** -0.5)

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move by the mean of the scaled updates."""
        return {"model": state["model"] + self.lr * total.mean()}
