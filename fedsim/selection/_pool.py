"""What a selection draws from, what it returns, and what it learns of a round."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim import rng
from fedsim.core import Memo

__all__ = ["Drawn", "Learned", "Pool", "remembered"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The `clients` that may be asked, ascending, and how many are to be: `cohort`.

    `sizes`: the examples of every client of the population.
    """

    clients: NDArray[np.int64]
    cohort: int
    sizes: NDArray[np.int64]
    seed: int
    round: int

    def rng(self, purpose: str = "cohort") -> np.random.Generator:
        """Return the stream of this round."""
        return rng.stream(self.seed, purpose, round=self.round)

    def rng_of_run(self) -> np.random.Generator:
        """Return a stream that is the same in every round."""
        return rng.stream(self.seed, "cohort")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The clients of a round, ascending; `factors`: what the update of each is multiplied by.

    With factors the mean is over the weight of all clients of the pool: a sum that is unbiased.
    """

    clients: NDArray[np.int64]
    factors: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What the clients that counted in a round told: NaN where something is not known.

    `norms`: of updates, times their weight. `seconds`: by the virtual clock.
    """

    round: int
    population: int
    clients: NDArray[np.int64]
    weights: NDArray[np.float64]
    losses: NDArray[np.float64]
    norms: NDArray[np.float64]
    seconds: NDArray[np.float64]


def remembered(
    memory: Memo, name: str, learned: Learned, values: NDArray[np.float64], start: float = np.nan
) -> torch.Tensor:
    """Return a number for each client of the population, those of a round replaced."""
    known = memory.get(name)
    kept = np.full(learned.population, start) if known is None else known.numpy().copy()
    kept[learned.clients] = values
    return torch.from_numpy(kept)
