"""Gaussian: malicious clients send noise.

Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS
2017 (experiments): a vector from a Gaussian of mean zero, of standard deviation 200 there.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

__all__ = ["Gaussian"]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Send independent normal numbers of standard deviation `std`, whatever was learned.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    std: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "update"

    def send(self, vector: Tensor, cohort: int, stream: np.random.Generator) -> Tensor:
        """Return noise of the update's size."""
        drawn = self.std * stream.standard_normal(len(vector), dtype=np.float32)
        return torch.from_numpy(drawn).to(vector)
