"""Clipping of whole updates: no client moves the sum further than a bound.

McMahan et al., "Learning differentially private recurrent language models", ICLR 2018, section 2.2
(FlatClip); as a defence, Sun et al., "Can you really backdoor federated learning?", 2019 (norm
bounding). It bounds what a client can do and gives no privacy by itself: no noise is added.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

__all__ = ["Clip"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Multiply an update by min(1, `clipping_norm` / its L2 norm) before it is weighted.

    The norm is over everything that is sent, the statistics of batch norm included. An update that
    is not finite stays so, and is refused where updates are added up.
    """

    clipping_norm: Annotated[float, Gt(0)] = 1.0

    def factors(self, norms: Tensor) -> Tensor:
        """Return what each update is multiplied by, given the L2 norms: [clients], NaN for NaN."""
        return (self.clipping_norm / norms).clamp(max=1.0)

    def encode(self, vectors: Tensor) -> Tensor:
        """Return updates [clients, model] as they enter the sum."""
        norms = torch.linalg.vector_norm(vectors, dim=1)
        return vectors * self.factors(norms).unsqueeze(1)
