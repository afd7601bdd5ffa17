"""IPM, inner product manipulation: the move ends up against the direction of honest clients.

Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product
manipulation", UAI 2020: - epsilon times the mean of honest updates. Small multiples pass for honest
updates, large ones break a mean. What a client can do by itself, with its own update in place of
the mean, is `sign-flip`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from torch import Tensor

from fedsim.attacks._seen import Knowledge, Seen, known
from fedsim.core import Memo

__all__ = ["Ipm"]


@dataclass(frozen=True, slots=True)
class Ipm:
    """Send - `scale` times the mean of the updates that the adversary `knows`.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    scale: Annotated[float, Gt(0)] = 0.1
    knows: Knowledge = "all"

    needs: ClassVar = "updates"

    def craft(self, seen: Seen, memory: Memo, stream: np.random.Generator) -> tuple[Tensor, Memo]:
        """Return the mean against its direction."""
        return -self.scale * known(seen, self.knows).mean(dim=0), memory
