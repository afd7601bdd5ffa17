"""Bulyan: Krum again and again, then the middle of what it chose.

El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in Byzantium",
ICML 2018, section 4. Krum chooses one update of those that are left, theta = n - 2 f times; of
every coordinate, the mean of the theta - 2 f values next to the median of the chosen. Breakdown
point: f with n >= 4 f + 3. Where so few updates are left that Krum's n - f - 2 neighbours would be
none, the score is the distance to the nearest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step, squared_distances
from fedsim.strategies.coordinate_median import coordinate_median
from fedsim.strategies.krum import scores

__all__ = ["Bulyan", "chosen", "near_median"]


@dataclass(frozen=True, slots=True)
class Bulyan:
    """Choose n - 2 f updates by repeated Krum and take their middle; `f` may be malicious."""

    f: Annotated[int, Ge(0)] = 1
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"

    def least(self) -> int:
        """Return 4 f + 3."""
        return 4 * self.f + 3

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the middle of the chosen updates."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean, by coordinate, of the chosen values that are next to their median."""
        kept = vectors[chosen(squared_distances(vectors), self.f)]
        return near_median(kept, len(kept) - 2 * self.f), {}


def chosen(squares: Tensor, f: int) -> list[int]:
    """Return which n - 2 f updates repeated Krum chooses, given squared distances [n, n]."""
    left = list(range(len(squares)))
    taken: list[int] = []
    for _ in range(len(squares) - 2 * f):
        best = int(scores(squares[left][:, left], f).argmin()) if len(left) > 1 else 0
        taken.append(left.pop(best))
    return sorted(taken)


def near_median(vectors: Tensor, count: int) -> Tensor:
    """Return, by coordinate, the mean of the `count` values nearest to the median."""
    nearest = (vectors - coordinate_median(vectors)).abs().argsort(dim=0, stable=True)[:count]
    return vectors.gather(0, nearest).mean(dim=0)
