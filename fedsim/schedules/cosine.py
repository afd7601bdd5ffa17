"""Cosine decay over rounds (Loshchilov and Hutter, ICLR 2017, equation 5)."""

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated

from annotated_types import Ge, Le

__all__ = ["Cosine"]


@dataclass(frozen=True, slots=True)
class Cosine:
    """From 1 down to `least` in the last round, after `warmup` linearly rising rounds."""

    least: Annotated[float, Ge(0), Le(1)] = 0.0
    warmup: Annotated[int, Ge(0)] = 0

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        if round <= self.warmup:
            return round / (self.warmup + 1)
        span = max(rounds - self.warmup - 1, 1)
        done = min((round - self.warmup - 1) / span, 1.0)
        return self.least + (1 - self.least) * (1 + cos(pi * done)) / 2
