"""Nearest-neighbour mixing (NNM): each update becomes the mean of those nearest to it.

Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS
2023, Algorithm 2: x_i is replaced by the mean of its n - f nearest updates, itself included; then
any rule. Breakdown point: f < n / 2, and that of the rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import inner_rule, robust_step, squared_distances

__all__ = ["Nnm", "mixed"]


@dataclass(frozen=True, slots=True)
class Nnm:
    """Mix each update with its nearest neighbours, then apply `rule` with `options`.

    `f`: how many may be malicious; the rule's own f is one of its options.
    """

    f: Annotated[int, Ge(0)] = 1
    rule: str = "trimmed-mean"
    options: Mapping[str, Any] = field(default_factory=dict)

    needs: ClassVar = "updates"

    def __post_init__(self) -> None:
        """Refuse a rule that does not exist, or options that it does not have."""
        inner_rule(self.rule, self.options)

    @property
    def lr(self) -> float:
        """Return the server learning rate of the rule."""
        return float(self._inner().lr)

    def init(self, model: Tensor) -> State:
        """Start as the rule does."""
        state: State = self._inner().init(model)
        return state

    def least(self) -> int:
        """Return the fewest updates with which fewer than half are malicious, for the rule too."""
        return max(2 * self.f + 1, int(self._inner().least()))

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by what the rule makes of the mixed updates."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the rule makes of the mixed updates."""
        found: tuple[Tensor, dict[str, Tensor]] = self._inner().aggregate(
            mixed(vectors, self.f), state, ctx
        )
        return found

    def _inner(self) -> Any:
        return inner_rule(self.rule, self.options)


def mixed(vectors: Tensor, f: int) -> Tensor:
    """Return, for each of n vectors [n, model], the mean of the n - f that are nearest to it.

    >>> import torch
    >>> mixed(torch.tensor([[0.0], [2.0], [90.0]]), 1).flatten().tolist()
    [1.0, 1.0, 46.0]
    """
    nearest = squared_distances(vectors).argsort(dim=1, stable=True)[:, : len(vectors) - f]
    return vectors[nearest.sort(dim=1).values].mean(dim=1)
