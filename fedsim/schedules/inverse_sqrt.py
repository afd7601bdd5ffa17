"""Inverse square-root decay over rounds."""

from dataclasses import dataclass
from math import sqrt

__all__ = ["InverseSqrt"]


@dataclass(frozen=True, slots=True)
class InverseSqrt:
    """1 / sqrt(round): the rate that stochastic convex analysis asks for."""

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        return 1.0 / sqrt(round)
