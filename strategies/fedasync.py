"""FedAsync: each client's model is mixed into the server's as soon as it arrives.

Xie, Koyejo and Gupta, "Asynchronous federated optimization", 2019 (OPT 2020), Algorithm 1: x_t =
(1 - alpha_t) x_{t-1} + alpha_t x_new, alpha_t = alpha s(t - tau), with the functions s of section
5.2: constant; polynomial (1 + t - tau)^-a; hinge, 1 up to b and 1 / (a (t - tau - b) + 1) beyond.
Here t - tau counts the server's steps since the client began, 0 for none. The paper's proximal
term is `local.name = "fedprox"`. `rounds.cohort` clients train at any time.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedsim.core import RoundContext, State, Sum

__all__ = ["FedAsync"]


@dataclass(frozen=True, slots=True)
class FedAsync:
    """Mix each arriving model in by `alpha` times s(staleness); `rounds.cohort` train at any time.

    `rounds.count` counts arrivals. `staleness`: "constant", "polynomial" (with `a`), "hinge" (with
    `a` and `b`); `a` unset: the paper's, 0.5 and 10.
    """

    alpha: Annotated[float, Gt(0), Le(1)] = 0.6
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    a: Annotated[float, Gt(0)] | None = None
    b: Annotated[float, Ge(0)] = 4.0

    needs: ClassVar = "sum"
    schedule: ClassVar = "asynchronous"
    counts_from: ClassVar = "now"
    buffer: ClassVar = 1

    def scale(self, staleness: int) -> float:
        """Return s of a staleness.

        >>> FedAsync().scale(3), FedAsync(staleness="hinge").scale(5)
        (0.5, 0.09090909090909091)
        """
        if self.staleness == "polynomial":
            return float((1 + staleness) ** -(self.a or 0.5))
        if self.staleness == "hinge" and staleness > self.b:
            return 1.0 / ((self.a or 10.0) * (staleness - self.b) + 1.0)
        return 1.0

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Mix: `total` is what arrived, less the model that it is mixed into, scaled by s."""
        return {"model": state["model"] + self.alpha * total.mean()}
