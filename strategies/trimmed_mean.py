"""Coordinate-wise trimmed mean of the updates.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018,
definition 2 and Algorithm 1 (option II), with f = beta x clients. Breakdown point: f of more than
2 f clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step

__all__ = ["TrimmedMean", "trimmed_mean"]


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Leave out the `f` largest and the `f` smallest values of each coordinate; mean of the rest.

    f = 0 is the mean, with all clients alike.
    """

    f: Annotated[int, Ge(0)] = 1
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    is_sgd: ClassVar = True

    def least(self) -> int:
        """Return the fewest updates that leave one in the middle."""
        return 2 * self.f + 1

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the trimmed mean."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the trimmed mean of every coordinate."""
        return trimmed_mean(vectors, self.f), {}


def trimmed_mean(vectors: Tensor, f: int) -> Tensor:
    """Return the mean of the values from the (f+1)th to the (n-f)th, of every coordinate.

    >>> import torch
    >>> trimmed_mean(torch.tensor([[1.0], [2.0], [90.0], [4.0]]), 1)
    tensor([3.])
    """
    return vectors.sort(dim=0).values[f : len(vectors) - f].mean(dim=0)
