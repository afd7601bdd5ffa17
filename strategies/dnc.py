"""Divide and conquer (DnC): leave out who lies furthest along the updates' main direction.

Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and
defenses for federated learning", NDSS 2021, Algorithm 2. On a random draw of `coordinates`, the
centred updates are projected on their top right singular vector; the c f with the largest squared
projections are left out. Who is left in all of `iterations` draws is averaged. Breakdown point: f
with iterations x c f < n, so that somebody is left whatever the draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step

__all__ = ["DnC", "outliers"]


@dataclass(frozen=True, slots=True)
class DnC:
    """Average who is no outlier along the main direction of the updates; `f` may be malicious.

    `c`: how many are left out for every malicious one. `coordinates`: drawn anew each time (b).
    """

    f: Annotated[int, Ge(0)] = 1
    c: Annotated[float, Gt(0)] = 1.0
    iterations: Annotated[int, Ge(1)] = 1
    coordinates: Annotated[int, Ge(1)] = 10_000
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"

    def least(self) -> int:
        """Return the fewest updates of which some are left, and fewer than half are malicious."""
        return max(self.iterations * self._out() + 1, 2 * self.f + 1)

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the mean of who is no outlier."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the updates that no draw leaves out."""
        stream = ctx.rng("dnc")
        good = torch.ones(len(vectors), dtype=torch.bool)
        size = vectors.shape[1]
        for _ in range(self.iterations):
            drawn = stream.choice(size, min(self.coordinates, size), replace=False)
            squares = outliers(vectors[:, torch.from_numpy(drawn).sort().values])
            good[squares.argsort(stable=True)[len(vectors) - self._out() :]] = False
        return vectors[good].mean(dim=0), {}

    def _out(self) -> int:
        # As fractions: 1.1 * 10 is above 11 in floats, and a large c is infinity.
        return math.ceil(Fraction(str(self.c)) * self.f)


def outliers(vectors: Tensor) -> Tensor:
    """Return the squared projection of each centred vector on their top right singular vector."""
    centred = vectors - vectors.mean(dim=0)
    # The left singular vectors are those of the small Gram matrix: projections are s u.
    values, left = torch.linalg.eigh(centred @ centred.T)
    top: Tensor = values[-1].clamp(min=0) * left[:, -1] ** 2
    return top
