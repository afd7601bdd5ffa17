"""Min-max: as far from the mean as no honest client is from another.

Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and
defenses for federated learning", NDSS 2021 (Min-Max): mean + gamma p with the largest gamma for
which the largest distance to an honest update is at most that between two of them. Deviation: the
paper's Algorithm 1 searches for gamma; here it is the root of a quadratic, exactly.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from fedsim.attacks._seen import Knowledge, Perturbation, Seen, displaced
from fedsim.core import Memo

__all__ = ["MinMax", "min_max_gamma"]


@dataclass(frozen=True, slots=True)
class MinMax:
    """Leave the mean of what the adversary `knows` by `perturbation`, within their diameter.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    perturbation: Perturbation = "std"
    knows: Knowledge = "all"

    needs: ClassVar = "updates"

    def craft(self, seen: Seen, memory: Memo, stream: np.random.Generator) -> tuple[Tensor, Memo]:
        """Return the mean, moved as far as it goes."""
        return displaced(seen, self.knows, self.perturbation, min_max_gamma), memory


def min_max_gamma(vectors: Tensor, p: Tensor) -> float:
    """Return the largest gamma with max_i |mean + gamma p - x_i| <= max_ij |x_i - x_j|.

    >>> min_max_gamma(torch.tensor([[0.0], [2.0]]).double(), torch.tensor([-1.0]).double())
    1.0
    """
    away = vectors.mean(dim=0) - vectors
    diameter = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").max()
    # |p|^2 gamma^2 + 2 (p . away_i) gamma + |away_i|^2 - diameter^2 = 0: the larger root of each.
    a, b = p.square().sum(), away @ p
    c = away.square().sum(dim=1) - diameter.square()
    if not a > 0:
        return 0.0
    return float(((-b + (b.square() - a * c).clamp(min=0).sqrt()) / a).min())
