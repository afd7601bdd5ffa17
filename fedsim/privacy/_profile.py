"""What follows from a privacy profile, that is from delta as a function of epsilon."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedsim.privacy._losses import FloatArray

__all__ = ["Gaussian", "Profile", "group", "lines", "roc", "tight_mu"]


class Profile(Protocol):
    """A bound on delta for every epsilon of 0 or more."""

    @property
    def highest(self) -> float:
        """Where it ends: it falls no further, or below anything that matters."""

    def deltas(self, epsilons: FloatArray) -> FloatArray:
        """Return delta at each epsilon."""

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon that holds at delta."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Gaussian differential privacy: N(0, 1) against N(mu, 1). Dong, Roth and Su, JRSS-B 2022.

    Delta is that of Balle and Wang, ICML 2018, theorem 8, computed from logarithms.
    """

    mu: float

    @property
    def highest(self) -> float:
        """Where delta is below 1e-15."""
        return self.mu**2 / 2 + 8.3 * self.mu

    def deltas(self, epsilons: FloatArray) -> FloatArray:
        """Return delta at each epsilon."""
        with np.errstate(under="ignore"):
            return np.asarray(np.exp(self._log_deltas(epsilons)))

    def epsilon(self, delta: float) -> float:
        """Return epsilon at delta, to 1e-12 of it."""
        from scipy import optimize

        if self.mu == 0:
            return 0.0
        if delta <= 0 or math.isinf(self.mu):
            return math.inf
        wanted = math.log(delta)
        top = self.mu**2 / 2 + self.mu * math.sqrt(2 * -wanted)  # from the tail of a normal
        if self.mu > 1e5:
            return top

        def gap(epsilon: float) -> float:
            return float(self._log_deltas(np.array([epsilon]))[0]) - wanted

        if gap(0.0) <= 0:
            return 0.0
        return float(optimize.brentq(gap, 0.0, 1.001 * top, xtol=1e-12, rtol=1e-12))

    def _log_deltas(self, epsilons: FloatArray) -> FloatArray:
        from scipy import special

        if self.mu == 0:
            return np.full(len(epsilons), -math.inf)
        if math.isinf(self.mu):
            return np.zeros(len(epsilons))
        first = special.log_ndtr(self.mu / 2 - epsilons / self.mu)
        second = epsilons + special.log_ndtr(-self.mu / 2 - epsilons / self.mu)
        with np.errstate(divide="ignore"):
            return np.asarray(first + np.log(-np.expm1(np.minimum(second - first, 0.0))))


def lines(profile: Profile, points: int = 3000) -> tuple[FloatArray, FloatArray]:
    """Return epsilons, dense near 0, and their deltas."""
    top = profile.highest
    if not math.isfinite(top):
        return np.zeros(1), np.ones(1)
    epsilons = top * np.linspace(0, 1, points) ** 2
    return epsilons, profile.deltas(epsilons)


def roc(epsilons: FloatArray, deltas: FloatArray, rates: FloatArray) -> FloatArray:
    """Return the highest true positive rate any test has, at each false positive rate.

    The least over epsilon of delta + e^eps a, and of 1 - e^-eps (1 - delta - a). Any epsilon gives
    a bound, so that looking at some never understates.
    """
    with np.errstate(over="ignore", under="ignore"):
        slopes = np.exp(epsilons[None, :] + np.log(np.maximum(rates, 1e-320))[:, None])
        slopes[rates == 0] = 0.0
        one = (deltas[None, :] + slopes).min(axis=1)
        few = slice(None, None, 1 + len(epsilons) // 300)  # this one matters near 1 only
        left = np.maximum(0, 1 - deltas[few][None, :] - rates[:, None])
        other = 1 - (np.exp(-epsilons[few])[None, :] * left).max(axis=1)
    return np.asarray(np.clip(np.minimum(one, other), rates, 1))


def group(epsilons: FloatArray, deltas: FloatArray, size: int, delta: float) -> float:
    """Return epsilon at delta of a group: the ROC applied `size` times, rounded up in between."""
    rates = np.geomspace(1e-300, 1, 300)
    start = np.flatnonzero(_repeated(epsilons, deltas, size, rates) <= delta)
    if len(start) == 0:
        return math.inf
    rates = np.geomspace(rates[start[-1]], 1, 1500)
    found = _repeated(epsilons, deltas, size, rates)
    # Between two rates the ROC is at most what it is at the higher one.
    over = found[1:] > delta
    values = np.log(found[1:][over] - delta) - np.log(rates[:-1][over])
    return float(np.max(values, initial=0.0))


def _repeated(epsilons: FloatArray, deltas: FloatArray, size: int, rates: FloatArray) -> FloatArray:
    for _ in range(size):
        rates = roc(epsilons, deltas, rates)
    return rates


def tight_mu(profile: Profile, least: float) -> float:
    """Return the least mu whose profile is nowhere below, where delta is `least` or more."""
    epsilons, deltas = lines(profile)
    if deltas[-1] >= 1:
        return math.inf
    kept = deltas >= least
    epsilons, deltas = epsilons[kept], deltas[kept]
    low, high = 0.0, 1.0
    while not _covers(high, epsilons, deltas):
        low, high = high, 2 * high
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (low, middle) if _covers(middle, epsilons, deltas) else (middle, high)
    return high


def _covers(mu: float, epsilons: FloatArray, deltas: FloatArray) -> bool:
    return bool(np.all(Gaussian(mu).deltas(epsilons) >= deltas))
