"""Coordinate-wise median of the updates.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018,
definition 1 and Algorithm 1 (option I). Breakdown point: fewer than half of the clients. Of an even
number it is the mean of the two in the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import robust_step

__all__ = ["CoordinateMedian", "coordinate_median"]


@dataclass(frozen=True, slots=True)
class CoordinateMedian:
    """Move each coordinate by the median of the clients' updates; `f` clients may be malicious.

    `f` changes nothing but what is refused: a cohort of at most 2 f.
    """

    f: Annotated[int, Ge(0)] = 1
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
        """Move by the median."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the median of every coordinate."""
        return coordinate_median(vectors), {}


def coordinate_median(vectors: Tensor) -> Tensor:
    """Return the median of every coordinate of vectors [clients, model].

    >>> import torch
    >>> coordinate_median(torch.tensor([[1.0], [2.0], [9.0], [4.0]]))
    tensor([3.])
    """
    ordered, count = vectors.sort(dim=0).values, len(vectors)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
