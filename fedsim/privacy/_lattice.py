"""Rényi divergences of discrete noise that several clients add to integer vectors.

Skellam: Agarwal, Kairouz and Liu, NeurIPS 2021, corollary 3.6 (whole orders). Sums of discrete
Gaussians: Kairouz, Liu and Steinke, ICML 2021, theorem 1 and proposition 14. Sampling, whole orders
again: Zhu and Wang, ICML 2019, theorem 5, and the same without its factor 3 by Steinke,
"Composition of differential privacy & privacy amplification by subsampling", 2022 (arXiv
2210.00597), section 6; Wang, Balle and Kasiviswanathan, AISTATS 2019, theorem 9. The code published
with the first two papers gives the same numbers, which a test holds ours to.

A member's vector has at most one clipping norm, which is `scale` steps before it is rounded; what
it is rounded to is bounded by `fedsim.privacy.rounding`. Everything below is in steps.
"""

import math
from collections.abc import Callable

import numpy as np

from fedsim.privacy._losses import FloatArray
from fedsim.privacy._parts import Part
from fedsim.privacy.rounding import l1_bound, squared_bound

__all__ = ["curve", "sampled", "swapped", "whole"]


#: (order, (k - 1) x divergence of order k, log of order over k; k from 2 on) -> log of a sum
_At = Callable[[int, FloatArray, FloatArray], float]


def whole(orders: FloatArray) -> FloatArray:
    """Return all whole orders from 2 to the largest of `orders`."""
    return np.arange(2, int(orders.max()) + 1, dtype=np.float64)


def curve(part: Part, orders: FloatArray, pull: float) -> FloatArray:
    """Return the divergences of a part without sampling, members `pull` clipping norms apart.

    Infinite where there is no bound: at orders that are not whole, for Skellam noise.
    """
    assert part.lattice is not None
    lattice, dimension = part.lattice, part.lattice.dimension
    norm = math.sqrt(squared_bound(lattice.scale, dimension))
    l2, l1 = pull * norm, pull * l1_bound(norm, dimension)
    variance = (part.noise * lattice.scale) ** 2
    if part.mechanism == "skellam":
        return _skellam(orders, l2, l1, variance)
    ratios = l2 / math.sqrt(variance), l1 / math.sqrt(variance)
    tau = _tau(variance / lattice.terms, lattice.terms)
    return _discrete_gaussians(orders, *ratios, dimension, tau)


def _skellam(orders: FloatArray, l2: float, l1: float, variance: float) -> FloatArray:
    """Agarwal et al. 2021, corollary 3.6 with a scale of 1."""
    leading = orders * l2**2 / (2 * variance)
    rest = ((2 * orders - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    found = leading + np.minimum(rest, 3 * l1 / (2 * variance))
    return np.where(orders % 1 == 0, found, math.inf)


def _discrete_gaussians(
    orders: FloatArray, l2: float, l1: float, dimension: int, tau: float
) -> FloatArray:
    """Kairouz et al. 2021, proposition 14; norms in standard deviations of the whole noise."""
    bounds = (
        orders / 2 * l2**2 + tau * dimension,
        orders / 2 * (l2**2 + 2 * l1 * tau + tau**2 * dimension),
        orders / 2 * (l2 + math.sqrt(dimension) * tau) ** 2,
    )
    return np.asarray(np.min(bounds, axis=0))


def _tau(variance: float, terms: int) -> float:
    """Return how far the sum of discrete Gaussians may be from one: Kairouz et al., theorem 1."""
    k = np.arange(1, terms)
    return float(10 * np.exp(-2 * math.pi**2 * variance * k / (k + 1)).sum())


def sampled(
    near: FloatArray, orders: FloatArray, rate: float, *, factor: float = 1.0
) -> FloatArray:
    """Return the divergences where a member is in with probability `rate`, by its own coin.

    `near`: those if it is in for certain, at `whole(orders)`. Steinke 2022; with `factor` 3, of
    terms from the third on, Zhu and Wang 2019, theorem 5. That it may be 1: whatever the two laws,
    one direction of the mixture's divergence is the sum below, term by term, and the other is at
    most a mean of two such sums, one for each order of the two laws (a test has the inequality).
    """
    log_in, log_out = math.log(rate), math.log1p(-rate)

    def at(order: int, terms: FloatArray, log_binomial: FloatArray) -> float:
        nobody = (order - 1) * log_out + math.log1p((order - 1) * rate)
        k = np.arange(2, order + 1)
        others = log_binomial + k * log_in + (order - k) * log_out + terms
        others[1:] += math.log(factor)
        return _log_sum(np.append(others, nobody))

    return _amplified(near, orders, at)


def swapped(far: FloatArray, orders: FloatArray, rate: float) -> FloatArray:
    """Return the divergences where, if a member is not sampled, somebody else may be.

    `far`: those of two members that pull apart, at `whole(orders)`. Wang et al. 2019, theorem 9,
    whose epsilon of order infinity is infinite here. As for `_renyi._swapped`, whose words about
    the proof hold here too, the sample need not be of a fixed size.
    """
    log_in = math.log(rate)

    def at(order: int, terms: FloatArray, log_binomial: FloatArray) -> float:
        k = np.arange(2, order + 1)
        others = log_binomial + k * log_in + terms + math.log(2)
        if far[0] < math.log(2):  # 4 (e^x - 1) < 2 e^x
            others[0] += math.log(2 * -math.expm1(-far[0]))
        return _log_sum(np.append(others, 0.0))

    return _amplified(far, orders, at)


def _amplified(curve: FloatArray, orders: FloatArray, at: _At) -> FloatArray:
    """Return log(sum of terms) / (order - 1) at whole orders, infinity at others."""
    from scipy import special

    found = np.full(len(orders), math.inf)
    for place, order in enumerate(orders.tolist()):
        if order % 1:
            continue
        k = np.arange(2, int(order) + 1)
        log_binomial = (
            special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        )
        with np.errstate(over="ignore", invalid="ignore"):
            total = at(int(order), (k - 1) * curve[: len(k)], log_binomial)
        found[place] = max(0.0, total / (order - 1)) if not math.isnan(total) else math.inf
    return found


def _log_sum(terms: FloatArray) -> float:
    top = float(terms.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(terms - top).sum()))
