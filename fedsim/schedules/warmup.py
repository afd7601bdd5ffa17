"""Linear warm-up over rounds, then constant."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

__all__ = ["Warmup"]


@dataclass(frozen=True, slots=True)
class Warmup:
    """Rise linearly over the first `over` rounds, then stay at 1."""

    over: Annotated[int, Ge(1)] = 5

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        return min(1.0, round / self.over)
