"""Uniform selection: every set of `rounds.cohort` clients is as likely as any other."""

from dataclasses import dataclass
from typing import ClassVar

from fedsim import sampling
from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Pool

__all__ = ["Uniform"]


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draw uniformly without replacement; all, where `rounds.cohort` is unset."""

    needs: ClassVar = "nothing"

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Draw the cohort of a round."""
        places = sampling.uniform(len(pool.clients), pool.cohort, pool.rng())
        return Drawn(pool.clients[places])
