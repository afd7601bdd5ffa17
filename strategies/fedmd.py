"""FedMD: clients agree on scores of public inputs, in place of on a model.

Li and Wang, "FedMD: heterogenous federated learning via model distillation", NeurIPS workshop 2019,
Algorithm 1 (aggregate, distribute): the consensus is the mean of the clients' scores. The clients'
half, `clients/fedmd.py`, says the rest.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedMD"]


@dataclass(frozen=True, slots=True)
class FedMD:
    """Send everybody the mean of the scores; it has no settings.

    No model is shared: the initial one stays as it was, and the server's own test is of that
    (`evaluation.central_every=0`). Scores are bounded as updates are, in a secure sum by
    `secure_sum.max_abs`.
    """

    needs: ClassVar = "sum"
    optimum: ClassVar = "none"
    goes_with: ClassVar = ("fedmd",)
    needs_public: ClassVar = True

    def init(self, model: Tensor) -> State:
        """Begin without scores: nobody has said any."""
        return {"model": model}

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send the consensus, once there is one."""
        return {"scores": state["scores"]} if "scores" in state else {}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Take the mean of the scores."""
        scores = {name: lane / total.count for name, lane in total.lanes.items()}
        return {"model": state["model"], **scores}
