"""Poisson selection: a coin for each client, so that cohorts vary in size.

Each is asked with probability `rounds.cohort` over the clients there are. Deviation from a true
Poisson sample: a draw of nobody is drawn again, for a round needs somebody. With `privacy.unit` it
is `privacy.sampling` that decides, and nothing is drawn again.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Pool

__all__ = ["Poisson"]


@dataclass(frozen=True, slots=True)
class Poisson:
    """Ask each client with the same probability, `rounds.cohort` in expectation."""

    needs: ClassVar = "nothing"

    def most(self, population: int, cohort: int) -> int:
        """Return how many clients a round may ask."""
        return population

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Draw the cohort of a round."""
        stream, rate = pool.rng(), min(1.0, pool.cohort / len(pool.clients))
        while not (chosen := stream.random(len(pool.clients)) < rate).any():
            pass
        return Drawn(pool.clients[chosen])
