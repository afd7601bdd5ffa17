"""Exponential decay over rounds."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

__all__ = ["Exponential"]


@dataclass(frozen=True, slots=True)
class Exponential:
    """Multiply by `gamma` every round."""

    gamma: Annotated[float, Gt(0), Le(1)] = 0.99

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        return float(self.gamma ** (round - 1))
