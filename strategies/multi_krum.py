"""Multi-Krum: the mean of the updates that are closest to their neighbours.

Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS
2017, section 4 and figure 3: the m lowest scores of Krum, each computed once over all n updates.
Breakdown point: as Krum, f with 2 f + 2 < n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step, squared_distances
from fedsim.strategies.krum import scores

__all__ = ["MultiKrum"]


@dataclass(frozen=True, slots=True)
class MultiKrum:
    """Move by the mean of the `m` updates with the nearest neighbours; `f` may be malicious.

    `m` unset takes n - f - 2, the most for which the resilience is proven (El Mhamdi et al., "Fast
    and robust distributed learning in high dimension", 2019); m = 1 is Krum.
    """

    f: Annotated[int, Ge(0)] = 1
    m: Annotated[int, Ge(1)] | None = None
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    is_sgd: ClassVar = True

    def least(self) -> int:
        """Return the fewest updates with 2 f + 2 < n and m <= n - f - 2."""
        return max(2 * self.f + 3, (self.m or 1) + self.f + 2)

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the mean of the updates with the lowest scores."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the m updates with the lowest scores."""
        count = self.m or len(vectors) - self.f - 2
        ranked = scores(squared_distances(vectors), self.f).argsort(stable=True)
        return vectors[ranked[:count].sort().values].mean(dim=0), {}
