"""Krum: the one update that is closest to its neighbours.

Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS
2017, section 4: the score of an update is the sum of squared distances to the n - f - 2 others that
are closest; the lowest is taken. Breakdown point: f with 2 f + 2 < n (proposition 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step, squared_distances

__all__ = ["Krum", "scores"]


@dataclass(frozen=True, slots=True)
class Krum:
    """Take one client's update, that with the nearest neighbours; `f` clients may be malicious."""

    f: Annotated[int, Ge(0)] = 1
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    is_sgd: ClassVar = True

    def least(self) -> int:
        """Return the fewest updates with 2 f + 2 < n."""
        return 2 * self.f + 3

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the update with the lowest score."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the update with the lowest score, the first of equals."""
        return vectors[int(scores(squared_distances(vectors), self.f).argmin())], {}


def scores(squares: Tensor, f: int) -> Tensor:
    """Return the score of each of n updates, given squared distances [n, n] between them.

    It is over the n - f - 2 nearest others, and over one at least.

    >>> import torch
    >>> scores(torch.tensor([[0.0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 1, 0]]), 0)
    tensor([10., 10., 10., 10.])
    """
    nearest = max(len(squares) - f - 2, 1)
    return squares.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1)
