"""RFA: the geometric median of the updates, by the smoothed Weiszfeld algorithm.

Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE Transactions on
Signal Processing 2022, Algorithm 2: z <- sum a_i x_i / sum a_i with a_i = 1 / max(nu, |z - x_i|).
Breakdown point: fewer than half of the clients. Deviation: clients count alike (alpha_i = 1 / n).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step

__all__ = ["Rfa", "geometric_median"]


@dataclass(frozen=True, slots=True)
class Rfa:
    """Move by the geometric median of the updates; `f` clients may be malicious.

    `nu`: distances below it count as it. `iterations` of Weiszfeld, begun at a zero update: few,
    as in the paper, come near; many come to the median itself.
    """

    f: Annotated[int, Ge(0)] = 1
    nu: Annotated[float, Gt(0)] = 1e-6
    iterations: Annotated[int, Ge(1)] = 8
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    is_sgd: ClassVar = True

    def least(self) -> int:
        """Return the fewest updates with which fewer than half are malicious."""
        return 2 * self.f + 1

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the geometric median."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the geometric median."""
        return geometric_median(vectors, self.nu, self.iterations), {}


def geometric_median(vectors: Tensor, nu: float, iterations: int) -> Tensor:
    """Return the point whose distances to vectors [clients, model] sum to the least, nearly."""
    z = torch.zeros_like(vectors[0])
    for _ in range(iterations):
        near = 1 / torch.linalg.vector_norm(vectors - z, dim=1).clamp(min=nu)
        z = (near / near.sum()) @ vectors
    return z
