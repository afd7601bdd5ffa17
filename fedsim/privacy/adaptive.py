"""The clipping norm that a chosen share of updates is below, learned privately while training.

Andrew, Thakkar, McMahan and Ramaswamy, "Differentially private learning with adaptive clipping",
NeurIPS 2021 (arXiv 1905.03871), Algorithm 1. Each client says whether its update was within the
norm; the share of those that were, with noise, moves the norm:
C <- C exp(-lr (share - target_quantile)). More within it than wanted, and it shrinks.

As in section 3, bits count as +1/2 and -1/2, so that a client moves their sum by 1/2 and not by 1.
Updates and bits are released together: what they spend is one Gaussian mechanism's, of noise
multiplier z with z^-2 = z_delta^-2 + (2 sigma_b)^-2 (theorem 1). Whoever wants z has to add
z_delta x C to updates, which is more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedsim.privacy.events import Adjacency
from fedsim.privacy.noise import Stream, add_gaussian

__all__ = ["AdaptiveClipping", "total_noise_multiplier", "update_noise_multiplier"]

_LEAST = 1e-12  # a clipping norm stays above zero, where it would have to stay for good
_MOST_VOTES = 2.0**24


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """Move `clipping_norm` to where `target_quantile` of the updates' norms are below it.

    `lr`: of its logarithm, per round. `bit_noise`: standard deviation on the sum of bits; without
    it, a twentieth of the expected cohort, as in the paper. `most`: the norm never passes it, since
    sums must not overflow.
    """

    clipping_norm: Annotated[float, Gt(0)] = 0.1
    target_quantile: Annotated[float, Ge(0), Le(1)] = 0.5
    lr: Annotated[float, Gt(0)] = 0.2
    bit_noise: Annotated[float, Gt(0)] | None = None
    most: Annotated[float, Gt(0)] = 1024.0

    def sigma(self, expected_cohort: float) -> float:
        """Return the standard deviation of the noise on the sum of bits."""
        return self.bit_noise or expected_cohort / 20

    def init(self) -> dict[str, float]:
        """Return the state before the first round."""
        return {"clipping_norm": min(self.clipping_norm, self.most)}

    def votes(self, norms: Tensor, state: Mapping[str, float]) -> Tensor:
        """Return 1/2 for norms within the bound, -1/2 for those beyond, 0 for no number: [clients].

        Those of clients in the round; nobody else has a vote.
        """
        within = torch.where(norms <= state["clipping_norm"], 0.5, -0.5)
        return torch.where(norms.isnan(), 0.0, within)

    def released(self, votes: Tensor, stream: Stream, expected_cohort: float) -> float:
        """Return the sum of votes with its noise: what the server may know of them."""
        total = votes.double().sum().reshape(1)
        return float(add_gaussian(total, self.sigma(expected_cohort), stream, bound=_MOST_VOTES))

    def step(
        self, state: Mapping[str, float], released: float, expected_cohort: float
    ) -> dict[str, float]:
        """Return the state of the next round.

        The share divides by the expected cohort, which is public; who took part is not. So clients
        that are missing pull it towards 1/2. Noise may put it outside 0 to 1, where it stays: to
        cut it off would let the norm drift for targets of 0 and 1.
        """
        share = released / expected_cohort + 0.5
        norm = state["clipping_norm"] * math.exp(-self.lr * (share - self.target_quantile))
        return {"clipping_norm": min(max(norm, _LEAST), self.most)}


def update_noise_multiplier(
    noise_multiplier: float, bit_noise: float, *, adjacency: Adjacency = "zero-out"
) -> float:
    """Return z_delta, the noise on updates in units of their sensitivity, for z altogether.

    Raises `ValueError` where the bits alone would spend more: z >= 2 sigma_b.

    >>> round(update_noise_multiplier(1.0, 1.0), 4)
    1.1547
    """
    bits = _bit_multiplier(bit_noise, adjacency)
    if not 0 <= noise_multiplier < bits:
        raise ValueError(
            f"bit_noise {bit_noise:.6g}, on the sum of clipping bits, is a noise multiplier of "
            f"{bits:.6g}; it must be above the {noise_multiplier:.6g} wanted altogether"
        )
    if not noise_multiplier:
        return 0.0
    return noise_multiplier / math.sqrt(1 - (noise_multiplier / bits) ** 2)


def total_noise_multiplier(
    update_multiplier: float, bit_noise: float, *, adjacency: Adjacency = "zero-out"
) -> float:
    """Return z, the multiplier that is accounted, of z_delta and the noise on the sum of bits.

    >>> round(total_noise_multiplier(1.1547005, 1.0), 6)
    1.0
    """
    bits = _bit_multiplier(bit_noise, adjacency)
    if not (update_multiplier and bits):
        return 0.0
    return update_multiplier / math.hypot(1, update_multiplier / bits)


def _bit_multiplier(bit_noise: float, adjacency: Adjacency) -> float:
    """Return noise / sensitivity: a bit that goes moves the sum by 1/2, one that turns by 1."""
    return bit_noise if adjacency == "replace-one" else 2 * bit_noise
