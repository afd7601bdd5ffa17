"""Min-sum: as far from all honest clients together as the one farthest from the others.

Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and
defenses for federated learning", NDSS 2021 (Min-Sum): mean + gamma p with the largest gamma for
which the sum of squared distances to honest updates is at most that of one of them. Deviation: the
paper's Algorithm 1 searches for gamma; here it is a square root, exactly.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from fedsim.attacks._seen import Knowledge, Perturbation, Seen, displaced
from fedsim.core import Memo

__all__ = ["MinSum", "min_sum_gamma"]


@dataclass(frozen=True, slots=True)
class MinSum:
    """Leave the mean of what the adversary `knows` by `perturbation`, no odder than any of them.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    perturbation: Perturbation = "std"
    knows: Knowledge = "all"

    needs: ClassVar = "updates"

    def craft(self, seen: Seen, memory: Memo, stream: np.random.Generator) -> tuple[Tensor, Memo]:
        """Return the mean, moved as far as it goes."""
        return displaced(seen, self.knows, self.perturbation, min_sum_gamma), memory


def min_sum_gamma(vectors: Tensor, p: Tensor) -> float:
    """Return the largest gamma with sum_i |mean + gamma p - x_i|^2 <= max_i sum_j |x_i - x_j|^2.

    >>> min_sum_gamma(torch.tensor([[0.0], [2.0]]).double(), torch.tensor([-1.0]).double())
    1.0
    """
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    most = distances.square().sum(dim=1).max()
    least = (vectors - vectors.mean(dim=0)).square().sum()
    # Around the mean the linear term vanishes: n |p|^2 gamma^2 + least = most.
    a = len(vectors) * p.square().sum()
    return float(((most - least).clamp(min=0) / a).sqrt()) if a > 0 else 0.0
