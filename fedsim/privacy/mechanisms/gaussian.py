"""Gaussian noise on every update, calibrated exactly.

Balle and Wang, "Improving the Gaussian mechanism for differential privacy", ICML 2018, theorem 8:
noise of standard deviation z x sensitivity is (epsilon, delta)-DP if and only if delta is at least
Phi(1 / (2 z) - epsilon z) - exp(epsilon) Phi(-1 / (2 z) - epsilon z). Any update may take any
other's place, and two of norm C may be 2 C apart: that is the sensitivity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from fedsim.privacy.events import Release
from fedsim.privacy.mechanisms._rows import by_row, clipped
from fedsim.privacy.noise import Stream, add_gaussian

__all__ = ["Gaussian", "analytic_noise_multiplier", "gaussian_delta"]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Clip to `clipping_norm` (L2), add normal noise to every coordinate.

    One release is (`epsilon`, `delta`)-DP; `noise_multiplier`, standard deviation / (2 x
    `clipping_norm`), sets the noise instead.
    """

    clipping_norm: Annotated[float, Gt(0)] = 1.0
    epsilon: Annotated[float, Gt(0)] = 8.0
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    noise_multiplier: Annotated[float, Gt(0)] | None = None

    @property
    def multiplier(self) -> float:
        """Return standard deviation / sensitivity."""
        return self.noise_multiplier or analytic_noise_multiplier(self.epsilon, self.delta)

    @property
    def std(self) -> float:
        """Return the standard deviation of a coordinate's noise."""
        return self.multiplier * 2 * self.clipping_norm

    def release(self) -> Release:
        """Return what one randomized update spends of its client's budget."""
        return Release("gaussian", self.multiplier)

    def randomize(self, vectors: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Return updates [clients, model] as their clients send them."""
        return by_row(self._one, vectors, streams)

    def _one(self, vector: Tensor, stream: Stream) -> Tensor:
        inside = clipped(vector, self.clipping_norm, order=2)
        return add_gaussian(inside, self.std, stream, bound=self.clipping_norm)


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """Return the least delta of the Gaussian mechanism at an epsilon (theorem 8).

    >>> round(gaussian_delta(1.0, 4.377178), 8)
    1e-05
    """
    arguments = torch.tensor([1.0, -1.0], dtype=torch.float64) / (2 * noise_multiplier)
    above, below = torch.special.log_ndtr(arguments - epsilon * noise_multiplier).tolist()
    return -math.exp(above) * math.expm1(min(epsilon + below - above, 0.0))


@lru_cache(maxsize=64)
def analytic_noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the least standard deviation / sensitivity that is (epsilon, delta)-DP.

    Rounded up by 2^-40 of itself at most. Raises `ValueError` unless epsilon > 0 and 0 < delta < 1.
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise ValueError(f"no Gaussian noise is ({epsilon}, {delta})-DP")
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > high * 2.0**-40:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) > delta else (low, middle)
    return high
