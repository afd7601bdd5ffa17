"""Individual filters for unit "user": each client pays for its own update, not for the worst one.

A round adds Gaussian noise of standard deviation z C to a sum that a client moves by n <= C, the
norm of its own clipped update: about that client it is a Gaussian mechanism of mu = n / (z C). How
large n is depends on the client's data and on the models before, so it is not known in advance. A
client takes part as long as the squares of its own mu, and a last one of 1 / z, come to at most
mu^2 of the budget; all that a run ever releases is then mu-Gaussian differentially private about
it. Koskela, Tobaben and Honkela, "Individual Privacy Accounting with Gaussian Differential
Privacy", ICLR 2023 (arXiv 2209.15596); Smith and Thakurta, "Fully Adaptive Composition for Gaussian
Differential Privacy" (arXiv 2210.17520); the idea is Feldman and Zrnic's, NeurIPS 2021.

Why: with u_t what the client adds in round t and x_t the noise, the logarithm of the likelihood
ratio is the sum of <u_t, x_t> / (z C)^2, plus or minus half the sum of mu_t^2. Let whoever attacks
see one more Gaussian of what is left of the budget; the squares are then mu^2 whatever happens, so
that the martingale is a normal of variance mu^2 (its characteristic function follows step by step,
backwards), and the ratio is that of N(0, 1) and N(mu, 1).

No sampling amplifies: who was not asked is assumed to be known, and pays nothing. Neighbours have
a client whose updates are all zero ("zero-out"); replacing one is not covered. What clients spent
depends on their updates and is private; so is who was left out, and nothing may depend on it but
the sums.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy._profile import Gaussian
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.margin import MARGIN

__all__ = ["WHOLE", "IndividualFilter", "IntArray", "cost_of", "filter_of", "released"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_GRADES = 64  # norms are rounded up to C / 64: nobody's is kept exactly

#: What a round costs a client whose update has the clipping norm; others the square of their part.
WHOLE = _GRADES**2


@dataclass(frozen=True, slots=True)
class IndividualFilter:
    """Decides who may take part, by what each has spent: integers, `WHOLE` for a whole update.

    `noise_multiplier`: of a round, in clipping norms.

    >>> own = IndividualFilter(Budget(2.0, 1e-5), 4.0)
    >>> own.most // WHOLE, int(own.most // own.costs([0.25])[0])
    (4, 57)
    """

    budget: Budget
    noise_multiplier: float

    @property
    def mu(self) -> float:
        """What a client may spend, as a parameter of Gaussian differential privacy."""
        return _mu(self.budget)

    @property
    def most(self) -> int:
        """What a client may spend."""
        return math.floor((self.mu * self.noise_multiplier) ** 2 * WHOLE)

    def release(self) -> Release:
        """Return what all rounds together are, about any client: one Gaussian release."""
        return Release("filtered", 1 / self.mu)

    def costs(self, norms: Sequence[float] | FloatArray) -> IntArray:
        """Return what updates of these norms cost, in clipping norms, after clipping and weighing.

        Rounded up, with room for how they were rounded on their way. NaN, where nobody knows, and
        whatever is no norm count as whole.
        """
        given = np.asarray(norms, np.float64)
        is_known = (given >= 0) & (given < 1)  # False for NaN
        grades = np.ceil(_GRADES * (np.where(is_known, given, 1.0) + MARGIN))
        return np.asarray(
            np.where(given == 0, 0, np.minimum(grades, _GRADES)).astype(np.int64) ** 2
        )

    def may(self, spent: IntArray) -> BoolArray:
        """Say who can pay for one more round, whatever it sends."""
        return spent + WHOLE <= self.most

    def epsilons(self, spent: IntArray) -> FloatArray:
        """Return each client's epsilon at the budget's delta. Private."""
        every, which = np.unique(spent, return_inverse=True)
        mus = np.sqrt(every / WHOLE) / self.noise_multiplier
        found = np.array([Gaussian(float(mu)).epsilon(self.budget.delta) for mu in mus])
        return np.asarray(found[which.reshape(-1)], np.float64)


def released(cost: int, noise_multiplier: float) -> Release:
    """Return what a round released of a client at this cost, above 0."""
    return Release("gaussian", noise_multiplier * math.sqrt(WHOLE / cost))


def cost_of(release: Release, noise_multiplier: float) -> int:
    """Return the cost that a release by `released` was made of."""
    return round(_GRADES * noise_multiplier / release.noise_multiplier) ** 2


def filter_of(privacy: Mapping[str, Any]) -> IndividualFilter | None:
    """Return the filter that the `[privacy]` settings of a run ask for, None without one."""
    if not privacy.get("client_epsilon"):
        return None
    budget = Budget(float(privacy["client_epsilon"]), float(privacy["delta"]))
    return IndividualFilter(budget, float(privacy["noise_multiplier"]))


@lru_cache(maxsize=64)
def _mu(budget: Budget) -> float:
    """Return the largest mu within the budget, never above it."""
    low, high = 0.0, 1.0
    while Gaussian(high).epsilon(budget.delta) <= budget.epsilon:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        is_within = Gaussian(middle).epsilon(budget.delta) <= budget.epsilon
        low, high = (middle, high) if is_within else (low, middle)
    return low * (1 - 1e-9)  # so that rounding does not take its epsilon beyond the budget
