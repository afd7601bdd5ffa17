"""Top-k sparsification: only the largest coordinates of an update are sent.

Aji and Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017, section 3,
without their memory of what was left out: clients of a cohort may never be asked again. It is
biased: what is small in every client is never sent.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True)
class TopK:
    """Send the `fraction` of coordinates with the largest absolute values, rounded up; zero else.

    On the wire: per coordinate sent, a float32 and the bits of its place. Of equal values it is not
    said which are sent. An update with NaN in it sends NaN, and is refused where updates are added.
    """

    fraction: Annotated[float, Gt(0), Le(1)] = 0.1

    def encode(self, vectors: Tensor) -> Tensor:
        """Return updates [clients, model] as they enter the sum."""
        places = vectors.abs().topk(self._kept(vectors.shape[1]), dim=1, sorted=False).indices
        return torch.zeros_like(vectors).scatter_(1, places, vectors.gather(1, places))

    def size_bytes(self, dimension: int) -> int:
        """Return the bytes of one update of `dimension` numbers on the wire."""
        place_bits = max(1, math.ceil(math.log2(dimension)))
        return -(-self._kept(dimension) * (32 + place_bits) // 8)

    def _kept(self, dimension: int) -> int:
        return max(1, math.ceil(self.fraction * dimension))
