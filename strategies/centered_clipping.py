"""Centered clipping: the mean of the updates, each no further from the last move than tau.

Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021,
Algorithm 2: v <- v + mean of (x_i - v) min(1, tau / |x_i - v|), L times, begun at the last round's
v. Breakdown point: theorem III bears a fraction of malicious clients of 0.1; f < n / 2 at most.
Clients should send momentum (`optimizer.momentum` with `local.keep_optimizer`), or each round's
attack finds a fresh centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step

__all__ = ["CenteredClipping", "clipped_mean"]


@dataclass(frozen=True, slots=True)
class CenteredClipping:
    """Move by the mean of updates that are clipped around the last move; `f` may be malicious.

    `tau`: the clipping radius, in the unit of an update's L2 norm. `iterations`: the paper's L.
    """

    f: Annotated[int, Ge(0)] = 1
    tau: Annotated[float, Gt(0)] = 10.0
    iterations: Annotated[int, Ge(1)] = 3
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"

    def init(self, model: Tensor) -> State:
        """Start from the initial model, and with no move before it."""
        return {"model": model, "v": torch.zeros_like(model)}

    def least(self) -> int:
        """Return the fewest updates with which fewer than half are malicious."""
        return 2 * self.f + 1

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the clipped mean, and remember it."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped mean; it is the centre of the next round."""
        v = clipped_mean(vectors, state.get("v", torch.zeros_like(vectors[0])), self)
        return v, {"v": v}


def clipped_mean(vectors: Tensor, centre: Tensor, rule: CenteredClipping) -> Tensor:
    """Return the mean of vectors [clients, model], clipped around a centre that follows it."""
    for _ in range(rule.iterations):
        away = vectors - centre
        norms = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        centre = centre + (away * (rule.tau / norms).clamp(max=1.0)).mean(dim=0)
    return centre
