"""Untimed: no virtual clock. How long a client takes is not simulated."""

from dataclasses import dataclass

from fedsim.devices._fleet import Fleet

__all__ = ["Untimed"]


@dataclass(frozen=True, slots=True)
class Untimed:
    """No virtual clock: all clients answer, in no time, and nothing is said of joules."""

    def fleet(self, seed: int) -> Fleet | None:
        """Return no devices."""
        return None
