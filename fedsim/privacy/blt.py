"""Correlated noise with a few buffers: a Toeplitz C whose coefficients are sums of exponentials.

c_0 = 1 and c_j = sum_d theta_d lambda_d^(j-1): a buffered linear Toeplitz matrix, BLT. C^-1 z needs
one model-sized buffer for each d, where bands need one for each band. One or two are enough where
users take part many times: the noise is 6 to 8 % larger than that of the best banded C.

Dvijotham, McMahan, Pillutla, Steinke and Thakurta, "Efficient and Near-Optimal Noise Generation for
Streaming Differential Privacy", FOCS 2024 (arXiv 2404.16706); for users who take part again:
McMahan, Xu and Zhang, "A Hassle-free Algorithm for Strong Differential Privacy in Federated
Learning Systems", EMNLP 2024 (arXiv 2408.08868).

See `matrix.py` for what a factorization is and for what must be kept secret.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.matrix import Error
from fedsim.privacy.separation import most_participations

__all__ = ["Buffered", "buffered"]

_Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Buffered:
    """C by its buffers: `scales` theta > 0 with sum at most 1, `decays` lambda in (0, 1).

    So coefficients are positive and never grow. Raises `ValueError` for other numbers.
    """

    rounds: int
    scales: tuple[float, ...]
    decays: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.scales) != len(self.decays):
            raise ValueError(f"{len(self.scales)} scales for {len(self.decays)} decays")
        if not all(scale > 0 for scale in self.scales) or sum(self.scales) > 1:
            raise ValueError(f"scales {self.scales} are not positive with a sum of at most 1")
        if not all(0 < decay < 1 for decay in self.decays):
            raise ValueError(f"decays {self.decays} are not between 0 and 1")

    def column(self) -> Tensor:
        """Return the coefficients c_j: float64 [rounds]."""
        return torch.from_numpy(_column(np.array(self.scales), np.array(self.decays), self.rounds))

    def dense(self) -> Tensor:
        """Return C as float64 [rounds, rounds]."""
        lag = torch.arange(self.rounds)[:, None] - torch.arange(self.rounds)[None, :]
        return torch.where(lag >= 0, self.column()[lag.clamp(min=0)], 0.0)

    def sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of C x, exactly; see `matrix.Correlation`.

        Coefficients are positive and do not grow, so the worst is to begin in round 1 and to come
        again as soon as may be: Kalinin and Lampert, "Banded Square Root Matrix Factorization for
        Differentially Private Model Training", NeurIPS 2024, Theorem 2.
        """
        most = min(participations, most_participations(self.rounds, min_separation))
        return _sensitivity(self.column().numpy(), most, min_separation)

    def row_sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of a row of C x: of a user in its round and as often before."""
        most = min(participations, most_participations(self.rounds, min_separation))
        return float(self.column()[: most * min_separation : min_separation].sum())

    def begin(self, like: Tensor) -> dict[str, Any]:
        """Return the state before round 1: one tensor `like` the model for each buffer."""
        buffers = {f"buffer{d}": torch.zeros_like(like) for d in range(len(self.scales))}
        return {"step": 0, **buffers}

    def correlate(self, state: dict[str, Any], fresh: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return the next round's noise and the state after it; see `matrix.Correlation`."""
        step = int(state["step"])
        if step >= self.rounds:
            raise ValueError(f"the factorization is for {self.rounds} rounds")
        noise = fresh.clone()
        for d, scale in enumerate(self.scales):
            noise.sub_(state[f"buffer{d}"], alpha=scale)
        buffers = {
            f"buffer{d}": torch.add(noise, state[f"buffer{d}"], alpha=decay)
            for d, decay in enumerate(self.decays)
        }
        return noise, {"step": step + 1, **buffers}


def buffered(
    column: Tensor, buffers: int, min_separation: int, *, error: Error = "mean"
) -> Buffered:
    """Return the C with so many buffers and the least error for a workload of sums.

    `column`: see `matrix.sums`. For users who take part as often as `min_separation` allows.
    """
    from scipy.optimize import minimize

    rounds = len(column)
    place, most = np.arange(rounds), most_participations(rounds, min_separation)
    weights = (rounds - place) / rounds if error == "mean" else np.ones(rounds)

    def loss(free: _Vector) -> float:
        scales, decays = _numbers(free)
        errors = _times_inverse(scales, decays, column.numpy())
        own = _sensitivity(_column(scales, decays, rounds), most, min_separation)
        return float(np.log(weights @ errors**2) + 2 * np.log(own))

    # Decays begin spread from what a few rounds forget to what all rounds do.
    spans = np.geomspace(2.0, max(4.0, rounds / 2), buffers)
    start = np.concatenate([np.log(1 / spans**0.5) - 1, np.log(spans)])
    found = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 500})
    polished = minimize(loss, found.x, method="Nelder-Mead", options={"maxiter": 400 * buffers})
    scales, decays = _numbers(polished.x)
    return Buffered(rounds, tuple(scales.tolist()), tuple(decays.tolist()))


def _numbers(free: _Vector) -> tuple[_Vector, _Vector]:
    """Return scales with a sum below 1 and decays in (0, 1), of any real numbers."""
    size, spans = np.exp(np.clip(free[: len(free) // 2], -40, 40)), free[len(free) // 2 :]
    return size / (1 + size.sum()), np.clip(1 / (1 + np.exp(-spans)), 1e-9, 1 - 1e-9)


def _column(scales: _Vector, decays: _Vector, rounds: int) -> _Vector:
    powers = decays[:, None] ** np.arange(rounds - 1)
    return np.concatenate([[1.0], scales @ powers])


def _times_inverse(scales: _Vector, decays: _Vector, column: _Vector) -> _Vector:
    """Return a / c of power series: c is P / Q with Q the product of all (1 - lambda x)."""
    from scipy.signal import lfilter

    bottom = np.poly(decays)
    top = bottom.copy()
    for d, scale in enumerate(scales):
        top[1:] += scale * np.poly(np.delete(decays, d))
    return np.asarray(lfilter(bottom, top, column), dtype=np.float64)


def _sensitivity(column: _Vector, participations: int, separation: int) -> float:
    total = np.zeros_like(column)
    for first in range(0, participations * separation, separation):
        total[first:] += column[: len(column) - first]
    return float(np.linalg.norm(total))
