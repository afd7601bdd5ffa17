"""Quantity skew: clients differ in how much they have, not in what.

Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, section
"quantity skew": sizes in Dirichlet(alpha) proportions, examples at random. flwr-datasets has fixed
size rules (linear, square, exponential), not this one.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.data.partition._deal import cut, deal, require_enough

__all__ = ["Quantity"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """`alpha`: small is uneven, large is even. Every client gets `min_size` first."""

    clients: Annotated[int, Ge(1)] = 20
    alpha: Annotated[float, Gt(0)] = 0.5
    min_size: Annotated[int, Ge(1)] = 1

    def assign(
        self,
        y: NDArray[np.generic],
        group: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Partition:
        """Deal out the examples. Raises `ConfigError` where `min_size` cannot be reached."""
        require_enough(self.clients, len(y), self.min_size)
        rest = len(y) - self.clients * self.min_size
        sizes = self.min_size + cut(rng.dirichlet(np.full(self.clients, self.alpha)), rest)
        owner = rng.permutation(np.repeat(np.arange(self.clients), sizes))
        return deal(owner, self.clients, rng)
