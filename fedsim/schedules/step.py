"""Step decay over rounds."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

__all__ = ["Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Multiply by `gamma` after every `every` rounds."""

    every: Annotated[int, Ge(1)] = 10
    gamma: Annotated[float, Gt(0), Le(1)] = 0.5

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        return float(self.gamma ** ((round - 1) // self.every))
