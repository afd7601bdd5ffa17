"""PrivUnit: a random direction that leans towards the update's; pure epsilon.

Bhowmick et al., "Protection against reconstruction and its applications in private federated
learning", 2018 (arXiv 1812.00984), in the form PrivUnitG of Asi, Feldman and Talwar, "Optimal
algorithms for mean estimation under local differential privacy", ICML 2022 (arXiv 2205.02466),
section 4: normal in all directions but the update's u, and there a normal that is above a threshold
t with probability p, below it otherwise. Against the normal law the density is p / q above the
threshold and (1 - p) / (1 - q) below it, where q = P(normal > t); their ratio is e^epsilon, for any
two directions. p is the one that makes the noise least, and epsilon is spent on it and the
threshold: epsilon = logit p - logit q.

An update of norm r below the bound C goes in as u or -u, u with probability (1 + r / C) / 2, so
that its mean is right (Duchi, Jordan and Wainwright, "Minimax optimal procedures for locally
private estimation", JASA 2018, section 4.2.3): no epsilon is spent on the norm. Bhowmick's ScalarDP
would spend some, and gain only where most updates are much shorter than the bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedsim.privacy.events import Release
from fedsim.privacy.mechanisms._rows import by_row, clipped
from fedsim.privacy.noise import Stream

__all__ = ["Cap", "PrivUnit", "best_cap"]

_NORMAL = NormalDist()
_STEP = 2.0**-36  # results are multiples of it times a public number


@dataclass(frozen=True, slots=True)
class Cap:
    """The law along the update: above `threshold` with `probability`, which `share` of normals is.

    `lean` is its mean; the law is normal, cut at the threshold, on either side.
    """

    probability: float
    share: float
    threshold: float
    lean: float

    @property
    def second_moment(self) -> float:
        """Return the mean of its square."""
        density = _NORMAL.pdf(self.threshold)
        above = 1 + self.threshold * density / self.share
        below = 1 - self.threshold * density / (1 - self.share)
        return self.probability * above + (1 - self.probability) * below


@dataclass(frozen=True, slots=True)
class PrivUnit:
    """Send a random vector whose mean is the update, clipped to `clipping_norm` (L2).

    One release is `epsilon`-DP.
    """

    clipping_norm: Annotated[float, Gt(0)] = 1.0
    epsilon: Annotated[float, Gt(0), Le(500)] = 8.0

    @property
    def std(self) -> float:
        """Return the standard deviation of a coordinate's noise, across the update's direction."""
        return self.clipping_norm / best_cap(self.epsilon).lean

    def release(self) -> Release:
        """Return what one randomized update spends of its client's budget."""
        return Release("pure", epsilon=self.epsilon)

    def randomize(self, vectors: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Return updates [clients, model] as their clients send them."""
        return by_row(self._one, vectors, streams)

    def _one(self, vector: Tensor, stream: Stream) -> Tensor:
        cap = best_cap(self.epsilon)
        turn, side, place = stream.uniform(3).tolist()
        unit = _unit(clipped(vector, self.clipping_norm, order=2), self.clipping_norm, turn)
        drawn = stream.normals(len(unit))
        drawn.add_(unit, alpha=_along(cap, side, place) - float(drawn @ unit))
        # To round to a grid is post-processing, and hides what the last bits would say of `unit`.
        return drawn.div_(_STEP).round_().mul_(_STEP * self.clipping_norm / cap.lean)


def _unit(vector: Tensor, clipping_norm: float, uniform: float) -> Tensor:
    """Return the direction that goes in: of length 1, with mean vector / clipping_norm."""
    norm = float(torch.linalg.vector_norm(vector))
    sign = 1 if uniform < (1 + norm / clipping_norm) / 2 else -1
    if not norm:
        first = torch.zeros_like(vector)
        first[0] = sign
        return first
    return vector * (sign / norm)


def _along(cap: Cap, side: float, place: float) -> float:
    """Return a number of the law along the update, by the inverse of the normal's."""
    inside = place + 2.0**-54  # never 0
    if side < cap.probability:
        return -_NORMAL.inv_cdf(inside * cap.share)
    return _NORMAL.inv_cdf(inside * (1 - cap.share))


@lru_cache(maxsize=64)
def best_cap(epsilon: float) -> Cap:
    """Return the cap that leans most; the noise is inversely proportional to the lean.

    >>> best_cap(8.0).lean > best_cap(4.0).lean > 1
    True
    """
    low, high = 0.0, epsilon  # of logit p, where the lean has one maximum
    for _ in range(100):
        third = (high - low) / 3
        if _cap(epsilon, low + third).lean < _cap(epsilon, high - third).lean:
            low += third
        else:
            high -= third
    return _cap(epsilon, (low + high) / 2)


def _cap(epsilon: float, spent: float) -> Cap:
    """Return the cap for which logit p = `spent` and logit q = `spent` - `epsilon`."""
    probability, share = _logistic(spent), _logistic(spent - epsilon)
    threshold = -_NORMAL.inv_cdf(share)
    # p / q - (1 - p) / (1 - q), of which the second is e^-epsilon times the first
    excess = probability / share * -math.expm1(-epsilon)
    return Cap(probability, share, threshold, _NORMAL.pdf(threshold) * excess)


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
