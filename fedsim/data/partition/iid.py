"""IID: examples are shuffled and dealt out evenly.

flwr-datasets' `IidPartitioner` cuts the data as it lies, so data sorted by class would not come out
IID; here it is shuffled first. Sizes differ by at most one, as there.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.data.partition._deal import deal, require_enough

__all__ = ["Iid"]


@dataclass(frozen=True, slots=True)
class Iid:
    """Every client gets the same number of random examples (at most one more)."""

    clients: Annotated[int, Ge(1)] = 20

    def assign(
        self,
        y: NDArray[np.generic],
        group: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Partition:
        """Deal out the examples. Raises `ConfigError` for more clients than examples."""
        require_enough(self.clients, len(y))
        owner = rng.permutation(np.arange(len(y), dtype=np.int64) * self.clients // len(y))
        return deal(owner, self.clients, rng)
