"""Bucketing: a robust rule is given means of a few clients at random, in place of single updates.

Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR
2022, Algorithm 1: a random permutation is cut into buckets of s, the last may be smaller. Means are
more alike than clients are, so rules that trust the crowd lose less where clients differ.
Breakdown point: that of the rule for its f of n / s vectors; f malicious clients spoil f buckets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.strategies._robust import inner_rule, must_bear, robust_step

__all__ = ["Bucketing"]


@dataclass(frozen=True, slots=True)
class Bucketing:
    """Average buckets of `s` clients, then apply `rule` with `options` (its f counts buckets)."""

    s: Annotated[int, Ge(1)] = 2
    rule: str = "krum"
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
        """Return the fewest updates that make enough buckets."""
        return int((self._inner().least() - 1) * self.s + 1)

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by what the rule makes of the buckets' means."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the rule makes of the buckets' means."""
        drawn = torch.from_numpy(ctx.rng("bucketing").permutation(len(vectors)))
        parts = torch.split(drawn, self.s)
        means = torch.stack([vectors[part].mean(dim=0) for part in parts])
        inner = self._inner()
        must_bear(self.rule, inner.least(), len(means))
        found: tuple[Tensor, dict[str, Tensor]] = inner.aggregate(means, state, ctx)
        return found

    def _inner(self) -> Any:
        return inner_rule(self.rule, self.options)
