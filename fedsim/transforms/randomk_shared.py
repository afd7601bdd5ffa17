"""Random-k sparsification by the round's own draw: all clients send the same coordinates.

Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, Definition 2.2, with one
draw for a whole cohort, which everybody makes from the run's seed and the round, so that not even a
seed travels. The map is linear: it goes with secure sums and with noise on the sum, over fewer
numbers (Ergun et al., "Sparsified secure aggregation for privacy-preserving federated learning",
2021).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedsim.coding import Shared
from fedsim.transforms._tensors import part_of

__all__ = ["RandomKShared"]


@dataclass(frozen=True, slots=True)
class RandomKShared:
    """Send the `fraction` of the coordinates that the round draws, rounded up, and nothing else.

    The server multiplies them by d/k: unbiased, with E |C(x) - x|^2 = (d/k - 1) |x|^2, which the
    mean of many clients does not make smaller. With `feedback` = "ef" it takes them as they are,
    and each client keeps the rest for the next time.
    """

    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    feedback: Literal["none", "ef"] = "none"

    kind: ClassVar[Literal["linear"]] = "linear"

    def width(self, shared: Shared) -> int:
        """Return how many coordinates are sent."""
        return part_of(self.fraction, shared.dimension)

    def reduce(self, vectors: Tensor, shared: Shared) -> Tensor:
        """Return the coordinates of the round, of updates [..., model]."""
        return vectors[..., self._places(shared)]

    def expand(self, numbers: Tensor, shared: Shared) -> Tensor:
        """Return the updates [..., model], or the sum, that are zero elsewhere."""
        vectors = numbers.new_zeros(*numbers.shape[:-1], shared.dimension)
        scale = 1.0 if self.feedback == "ef" else shared.dimension / numbers.shape[-1]
        vectors[..., self._places(shared)] = numbers * scale
        return vectors

    def _places(self, shared: Shared) -> Tensor:
        size = shared.dimension
        chosen = shared.rng("randomk").choice(
            size, part_of(self.fraction, size), replace=False, shuffle=False
        )
        return torch.from_numpy(np.sort(chosen))
