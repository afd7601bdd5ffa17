"""Individual filters for unit "user": each client pays for its own update, not for the worst one.

Feldman and Zrnic, "Individual Privacy Accounting via a Rényi Filter", NeurIPS 2021, section 4: of a
Gaussian mechanism with multiplier z on updates clipped to C, a client whose update has the norm
|u| <= C spends what multiplier z C / |u| would, at one Rényi order; who could not pay for a round
is left out of it, and so contributes zero. What clients spent depends on their updates, hence it is
private: it is state of the server and never written into the ledger (`budget.coarse` says what may
be shown). Valid against zeroing a client out, not against replacing it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy._renyi import ORDERS, Renyi
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release

__all__ = ["IndividualFilter"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_STEPS = 64  # norms are rounded up to C / 64, so that there are few curves to compute


@dataclass(frozen=True, slots=True)
class IndividualFilter:
    """Decides round by round which clients may take part, by what each has spent.

    `release`: one round, as if every norm was `clipping_norm`. State is one array: start with
    `start`, keep it with the server's state. Raises `ValueError` for a release that is not
    Gaussian, or whose sampling ties clients together.

    >>> filter = IndividualFilter(Budget(2.0, 1e-5), Release(noise_multiplier=4.0), 1.0)
    >>> spent, counts = filter.start(clients=2), [0, 0]
    >>> for _ in range(100):
    ...     spent, may = filter.step(spent, [1.0, 0.25])
    ...     counts = [a + int(b) for a, b in zip(counts, may)]
    >>> counts
    [3, 55]
    """

    budget: Budget
    release: Release
    clipping_norm: float

    def __post_init__(self) -> None:
        """Check that the theorem applies."""
        if self.release.mechanism != "gaussian" or self.release.count != 1:
            raise ValueError("an individual filter is about one Gaussian release a round")
        if self.release.sampling.kind not in ("all", "poisson"):
            raise ValueError(
                f"an individual filter needs clients that are sampled on their own ('all' or "
                f"'poisson'): with {self.release.sampling.kind!r} who takes part depends on others"
            )

    @property
    def order(self) -> float:
        """The Rényi order: that at which a client whose norms are all largest lasts longest."""
        return ORDERS[_best(self.release, self.budget)]

    @property
    def most(self) -> float:
        """What a client may spend: a Rényi divergence at `order`."""
        return _most(_best(self.release, self.budget), self.budget)

    def start(self, clients: int) -> FloatArray:
        """Return the state before the first round: float64 [clients]."""
        return np.zeros(clients)

    def step(
        self, spent: FloatArray, norms: Sequence[float] | FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return the state after a round, and who may take part in it: bool [clients].

        `norms`: of every client's update before clipping, [clients], whether or not it was sampled:
        what is spent may not depend on the coin. NaN, where it is not known, counts as the largest.
        The update of a client that may not take part must not be used.
        """
        next_ = self.costs(norms)
        may = spent + next_ <= self.most
        return spent + np.where(may, next_, 0.0), may

    def costs(self, norms: Sequence[float] | FloatArray) -> FloatArray:
        """Return what updates of these norms spend: Rényi divergences at `order`."""
        share = np.nan_to_num(np.asarray(norms, np.float64) / self.clipping_norm, nan=1.0)
        steps = np.ceil(np.clip(share, 0.0, 1.0) * _STEPS).astype(np.int64)
        order = _best(self.release, self.budget)
        table = np.array([_cost(self.release, step, order) for step in range(_STEPS + 1)])
        return np.asarray(table[steps])

    def epsilons(self, spent: FloatArray) -> FloatArray:
        """Return each client's epsilon at the budget's delta, 0 for who spent nothing. Private."""
        offset = self.budget.epsilon - self.most
        return np.where(spent > 0, np.maximum(spent + offset, 0.0), 0.0)


@lru_cache(maxsize=1024)
def _cost(release: Release, step: int, order: int) -> float:
    if not step:
        return 0.0
    own = replace(release, noise_multiplier=release.noise_multiplier * _STEPS / step)
    curve = Renyi("zero-out").compose(own).curve
    assert curve is not None
    return float(curve[order])


@lru_cache(maxsize=64)
def _best(release: Release, budget: Budget) -> int:
    costs = [_cost(release, _STEPS, order) for order in range(len(ORDERS))]
    times = [_most(order, budget) / max(cost, 1e-300) for order, cost in enumerate(costs)]
    return int(np.argmax(times))


def _most(order: int, budget: Budget) -> float:
    a = ORDERS[order]
    return budget.epsilon - math.log1p(-1 / a) + math.log(budget.delta * a) / (a - 1)
