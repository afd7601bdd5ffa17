"""Scaling, or model replacement: malicious clients make their update as large as everybody's.

Bagdasaryan et al., "How to backdoor federated learning", AISTATS 2020, equation 3: gamma (X - G)
with gamma = n / eta puts X in the place of the average.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from torch import Tensor

__all__ = ["Scaling"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Send `scale` times one's own update; unset: as many times as a cohort has clients.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    scale: Annotated[float, Gt(0)] | None = None

    needs: ClassVar = "update"

    def send(self, vector: Tensor, cohort: int, stream: np.random.Generator) -> Tensor:
        """Return the update, scaled."""
        return (cohort if self.scale is None else self.scale) * vector
