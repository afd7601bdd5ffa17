"""Rényi curves: what is added up release by release, while a run goes on.

The curves are dp-accounting's. Rényi accounting stays valid where parameters are chosen in view of
earlier outputs (Feldman and Zrnic, NeurIPS 2021; Whitehouse et al., ICML 2023), which is not known
of privacy loss distributions; and a release is added in milliseconds.
"""

import logging
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np

from fedsim.privacy import _lattice
from fedsim.privacy._losses import FloatArray
from fedsim.privacy._parts import Part, part_of
from fedsim.privacy.events import ONCE, Adjacency, Release

__all__ = ["ORDERS", "Renyi"]

#: Orders at which curves are kept. Fractional ones cost most, and matter for large epsilons only.
ORDERS: tuple[float, ...] = (
    1.1, 1.25, 1.5, 1.75,
    *(i / 10 for i in (20, 22, 24, 25, 26, 28, 30, 32, 34, 36, 38)),
    *(i / 10 for i in range(40, 100)),
    *range(10, 33), *range(34, 65, 2), *range(68, 129, 4), 160, 192, 256, 512, 1024,
)  # fmt: skip
_FEW = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)


def _nothing() -> FloatArray:
    return np.zeros(len(ORDERS))


@dataclass(frozen=True, slots=True, eq=False)
class Renyi:
    """What was spent, as Rényi divergences at `ORDERS`; start with `Renyi(adjacency)`.

    `curve` is unconditional. `untruncated` is what holds unless a member was sampled in a release
    whose sample was truncated, which has at most the chance `truncated`; it is the tighter of the
    two for a cap that is seldom reached.
    """

    adjacency: Adjacency
    curve: FloatArray = field(default_factory=_nothing)
    untruncated: FloatArray = field(default_factory=_nothing)
    truncated: float = 0.0

    def compose(self, release: Release) -> Self:
        """Return the state after one more entry: a release, `count` times.

        Raises `ValueError` for what no valid analysis exists.
        """
        part = part_of(release, self.adjacency)
        if part is None:
            return self
        return self.add(part, 1 if release.mechanism in ONCE else release.count)

    def add(self, part: Part, count: int) -> Self:
        """Return the state after one more part, `count` times."""
        curve, untruncated = _curves(part)
        with np.errstate(over="ignore"):
            return replace(
                self,
                curve=self.curve + count * curve,
                untruncated=self.untruncated + count * untruncated,
                truncated=min(1.0, self.truncated + count * part.most * part.other_rate),
            )

    def epsilon(self, delta: float) -> float:
        """Return an epsilon that holds at `delta`: Canonne et al. 2020, proposition 12."""
        from dp_accounting.rdp import rdp_privacy_accountant as rdp

        found = float(rdp.compute_epsilon(ORDERS, self.curve, delta)[0])
        if 0 < self.truncated < delta:
            left = delta - self.truncated
            found = min(found, float(rdp.compute_epsilon(ORDERS, self.untruncated, left)[0]))
        return max(0.0, found)

    def delta(self, epsilon: float) -> float:
        """Return a delta at which `epsilon` holds."""
        return float(self.deltas(np.array([epsilon]))[0])

    def deltas(self, epsilons: FloatArray) -> FloatArray:
        """Return a delta for each of `epsilons`."""
        found = _deltas(self.curve, epsilons)
        if self.truncated > 0:
            found = np.minimum(found, _deltas(self.untruncated, epsilons) + self.truncated)
        return np.asarray(np.minimum(found, 1.0))


def _deltas(curve: FloatArray, epsilons: FloatArray) -> FloatArray:
    """Canonne et al. 2020, proposition 12, or sqrt(1 - e^-KL): as dp-accounting, for arrays."""
    orders = np.array(ORDERS, dtype=np.float64)[:, None]
    with np.errstate(divide="ignore", under="ignore", invalid="ignore"):
        inner = curve[:, None] - epsilons[None, :] + np.log1p(-1 / orders)
        logs = (orders - 1) * inner - np.log(orders)
        close = 0.5 * np.log(-np.expm1(-curve.min()))
        found = np.exp(np.minimum(np.nan_to_num(logs, nan=math.inf).min(axis=0), close))
    return np.asarray(np.where(np.isinf(epsilons), 0.0, found))


@lru_cache(maxsize=4096)
def _curves(part: Part) -> tuple[FloatArray, FloatArray]:
    """Return a part's curve, and the one it has unless its sample is truncated."""
    orders = np.array(ORDERS, dtype=np.float64)
    if part.kind == "pure":
        return (found := _pure(orders, part.rate)), found
    if part.noise == 0:
        return (found := np.full(len(orders), math.inf)), found
    if part.lattice is not None:
        return _on_lattice(orders, part)
    if part.kind == "laplace":
        from dp_accounting import LaplaceDpEvent

        return (found := _library(LaplaceDpEvent(part.noise))), found
    if part.kind == "gaussian":
        return (found := _plain(orders, part.noise)), found
    if part.noise < 1e-4:  # the sums overflow, and sampling does not help any more
        return (found := _plain(orders, part.plain)), found
    one = np.minimum(_sampled(part), _plain(orders, part.plain))
    if part.most == 0:
        return one, one
    other = _swapped(part.other_rate, part.noise / 2)
    return np.minimum(_either(orders, one, other, part.most), _plain(orders, part.plain)), one


def _on_lattice(orders: FloatArray, part: Part) -> tuple[FloatArray, FloatArray]:
    """Return the curves of discrete noise: see `_lattice.py`."""
    plain = _lattice.curve(part, orders, part.pull)
    if part.rate == 1:
        return plain, plain
    far = _lattice.curve(part, _lattice.whole(orders), 2 * part.pull)
    if part.kind == "lattice-swap":
        one = np.minimum(_lattice.swapped(far, orders, part.rate), plain)
    else:
        near = _lattice.curve(part, _lattice.whole(orders), part.pull)
        one = np.minimum(_lattice.sampled(near, orders, part.rate), plain)
    if part.most == 0:
        return one, one
    other = _lattice.swapped(far, orders, part.other_rate)
    return np.minimum(_either(orders, one, other, part.most), plain), one


def _plain(orders: FloatArray, noise: float) -> FloatArray:
    if noise < 1e-150:
        return np.full(len(orders), math.inf)
    return np.asarray(orders / (2 * noise**2))


def _sampled(part: Part) -> FloatArray:
    if part.kind != "poisson":
        return _swapped(part.rate, part.noise / 2 if part.kind == "replace" else part.noise)
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    fractions = tuple(a for a in ORDERS if a % 1)
    event = PoissonSampledDpEvent(part.rate, GaussianDpEvent(part.noise))
    found = dict(zip(fractions, _library(event, orders=fractions), strict=True))
    return np.array([found[a] if a % 1 else _whole(part.rate, part.noise, int(a)) for a in ORDERS])


def _whole(rate: float, noise: float, order: int) -> float:
    """Mironov, Talwar and Zhang 2019 (arXiv 1908.10530), section 3.3, for a whole order.

    As dp-accounting does it, but all terms at once: its loop would take most of a release's time.
    """
    from scipy import special

    k = np.arange(order + 1)
    log_binomial = (
        special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
    )
    terms = log_binomial + k * math.log(rate) + (order - k) * math.log1p(-rate)
    terms += (k**2 - k) / (2 * noise**2)
    top = float(terms.max())
    return max(0.0, (top + math.log(float(np.exp(terms - top).sum()))) / (order - 1))


def _swapped(rate: float, noise: float) -> FloatArray:
    """Return the curve where, if the member is not sampled, somebody else may be.

    Wang, Balle and Kasiviswanathan, AISTATS 2019, theorem 27. Its proof uses of the sampling only
    that the output is drawn, with probability 1 - rate, from something both neighbours share; so it
    holds for Poisson sampling with one member replaced too. At `_FEW` orders: it is slow at many.
    """
    from dp_accounting import GaussianDpEvent, SampledWithoutReplacementDpEvent

    # dp-accounting reads the rate as sample over population; neither needs to be whole.
    event = SampledWithoutReplacementDpEvent(1, rate, GaussianDpEvent(noise))
    few = _library(event, orders=_FEW, relation="REPLACE_ONE")
    return np.array([few[_FEW.index(a)] if a in _FEW else math.inf for a in ORDERS])


def _library(
    event: Any, *, orders: tuple[float, ...] = ORDERS, relation: str = "REPLACE_SPECIAL"
) -> FloatArray:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    logger = logging.getLogger("absl")  # it says that an order did not converge; others did
    was_disabled, logger.disabled = logger.disabled, True
    try:
        accountant = RdpAccountant(list(orders), NeighboringRelation[relation])
        with np.errstate(all="ignore"):
            found = np.asarray(accountant.compose(event).rdp, dtype=np.float64)
    finally:
        logger.disabled = was_disabled
    # What rounding makes of a zero may be negative; anything worse is an order that failed.
    return np.where(np.isnan(found) | (found < -1e-9), math.inf, np.abs(found))


def _pure(orders: FloatArray, epsilon: float) -> FloatArray:
    """Return the curve of randomized response, which every pure mechanism stays below."""
    if math.isinf(epsilon):
        return np.full(len(orders), math.inf)
    # With p = e^eps / (1 + e^eps): log of p^a (1-p)^(1-a) + (1-p)^a p^(1-a), over a - 1.
    log_p, log_rest = -np.logaddexp(0, -epsilon), -np.logaddexp(0, epsilon)
    both = np.logaddexp(
        orders * log_p + (1 - orders) * log_rest, orders * log_rest + (1 - orders) * log_p
    )
    return np.asarray(np.clip(both / (orders - 1), 0, epsilon))


def _either(orders: FloatArray, one: FloatArray, other: FloatArray, chance: float) -> FloatArray:
    """Return the curve of `other` with a chance, which the output may tell, and else of `one`."""
    rest = np.log1p(-min(chance, 1 - 1e-16)) + (orders - 1) * one
    return np.asarray(np.logaddexp(rest, np.log(chance) + (orders - 1) * other) / (orders - 1))
