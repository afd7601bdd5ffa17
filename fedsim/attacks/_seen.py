"""What an omniscient adversary sees of a round, and what such attacks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Knowledge", "Perturbation", "Seen", "deviation", "direction", "displaced", "known"]

#: Whose updates it knows: those of all honest clients, or only what its own clients would send.
Knowledge = Literal["all", "own"]

#: Of Shejwalkar and Houmansadr 2021: inverse standard deviation, unit vector, sign.
Perturbation = Literal["std", "unit", "sign"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Updates of a round, float64 [clients, model], as they would enter the sum.

    `honest`: of the `clients` that are; `own`: what malicious clients would send if they were.
    """

    honest: Tensor
    own: Tensor
    clients: Sequence[int]

    @property
    def count(self) -> int:
        """Return how many updates the server gets."""
        return len(self.honest) + len(self.own)


def known(seen: Seen, knows: Knowledge) -> Tensor:
    """Return the updates that an adversary knows, [clients, model]."""
    return seen.honest if knows == "all" else seen.own


def deviation(vectors: Tensor) -> Tensor:
    """Return the standard deviation of each coordinate, over n - 1; zero for a single vector."""
    return vectors.std(dim=0) if len(vectors) > 1 else torch.zeros_like(vectors[0])


def direction(vectors: Tensor, perturbation: Perturbation) -> Tensor:
    """Return the direction in which a malicious update leaves the mean of others.

    >>> direction(torch.tensor([[3.0, 0.0], [3.0, 8.0]]), "unit").tolist()
    [-0.6000000238418579, -0.800000011920929]
    """
    mean = vectors.mean(dim=0)
    if perturbation == "std":
        return -deviation(vectors)
    if perturbation == "sign":
        return -mean.sign()
    length: Tensor = torch.linalg.vector_norm(mean)
    return -mean / length.clamp(min=torch.finfo(mean.dtype).tiny)


def displaced(
    seen: Seen,
    knows: Knowledge,
    perturbation: Perturbation,
    gamma: Callable[[Tensor, Tensor], float],
) -> Tensor:
    """Return the mean of what is known, moved along a perturbation p by `gamma(known, p)` p."""
    vectors = known(seen, knows)
    p = direction(vectors, perturbation)
    return vectors.mean(dim=0) + gamma(vectors, p) * p
