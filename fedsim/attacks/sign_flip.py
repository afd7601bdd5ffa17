"""Sign flipping: malicious clients send their update the wrong way round.

Li et al., "RSA: Byzantine-robust stochastic aggregation methods for distributed learning from
heterogeneous datasets", AAAI 2019 (sign-flipping attack): a negative multiple of what it should be.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from torch import Tensor

__all__ = ["SignFlip"]


@dataclass(frozen=True, slots=True)
class SignFlip:
    """Send - `scale` times one's own update.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    scale: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "update"

    def send(self, vector: Tensor, cohort: int, stream: np.random.Generator) -> Tensor:
        """Return the update against its direction."""
        return -self.scale * vector
