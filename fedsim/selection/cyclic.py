"""Cyclic selection: all clients in turn, in an order drawn once.

Eichner et al., "Semi-cyclic stochastic gradient descent", ICML 2019, section 2, with blocks that
are drawn and not given.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Pool

__all__ = ["Cyclic"]


@dataclass(frozen=True, slots=True)
class Cyclic:
    """Ask the next `rounds.cohort` clients of a random order, from its beginning where it ends."""

    needs: ClassVar = "nothing"

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Return the clients whose turn it is."""
        order = pool.rng_of_run().permutation(len(pool.sizes))
        present = order[np.isin(order, pool.clients)]
        first = (pool.round - 1) * pool.cohort % len(present)
        turn = (first + np.arange(min(pool.cohort, len(present)))) % len(present)
        return Drawn(np.sort(present[turn]).astype(np.int64))
