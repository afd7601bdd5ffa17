"""The same client learning rate in every round."""

from dataclasses import dataclass

__all__ = ["Constant"]


@dataclass(frozen=True, slots=True)
class Constant:
    """Factor 1."""

    def factor(self, round: int, rounds: int) -> float:
        """Return what the learning rate is multiplied by in `round` (from 1) of `rounds`."""
        return 1.0
