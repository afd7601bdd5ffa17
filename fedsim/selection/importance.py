"""Importance selection: who matters more is asked more often, and counts for so much less.

Chen, Horvath and Richtarik, "Optimal client sampling for federated learning", TMLR 2022, equations
5 and 7: probabilities in proportion to the norms of weighted updates, at most 1, sum to the cohort
with the least variance; every update is divided by its client's probability, so that the sum is
unbiased. Deviations: the norms are those that clients had last (the paper has every client compute
its update first), mixed with the uniform as in Rizk, Vlaski and Sayed, "Federated learning under
importance sampling", IEEE Transactions on Signal Processing 2022; and the draw is systematic
(Madow, "On the theory of systematic sampling, II", 1949): the same probabilities, always as many
clients.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Learned, Pool, remembered

__all__ = ["Importance", "probabilities", "systematic"]


@dataclass(frozen=True, slots=True)
class Importance:
    """Ask clients with chances by their last update's weighted norm, weighted loss, or size.

    `floor`: the part of a uniform draw that is mixed in; no client's chance is less than that.
    """

    by: Literal["norm", "loss", "size"] = "norm"
    floor: Annotated[float, Gt(0), Le(1)] = 0.1

    needs: ClassVar = "updates"

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Draw the cohort, with what each update is to be multiplied by."""
        chances = probabilities(self._scores(pool, memory), pool.cohort, self.floor)
        places = systematic(chances, pool.rng())
        return Drawn(pool.clients[places], 1 / chances[places])

    def learn(self, memory: Memo, learned: Learned) -> Memo:
        """Remember the score of every client that answered."""
        scores = learned.norms if self.by == "norm" else learned.weights * learned.losses
        return {"scores": remembered(memory, "scores", learned, scores)}

    def _scores(self, pool: Pool, memory: Memo) -> NDArray[np.float64]:
        """Return a score for each client of the pool; who is not known has the mean of the rest."""
        if self.by == "size" or "scores" not in memory:
            return pool.sizes[pool.clients].astype(np.float64)
        scores = memory["scores"].numpy()[pool.clients]
        is_known = np.isfinite(scores)
        usual = scores[is_known].mean() if is_known.any() else 1.0
        return np.where(is_known, scores, usual)


def probabilities(scores: NDArray[np.float64], cohort: int, floor: float) -> NDArray[np.float64]:
    """Return chances of being asked: in proportion to scores, at most 1, of sum `cohort`.

    >>> probabilities(np.array([1.0, 1.0, 2.0, 12.0]), 2, 0.0).tolist()
    [0.25, 0.25, 0.5, 1.0]
    """
    count = len(scores)
    if cohort >= count:
        return np.ones(count)
    order = np.argsort(scores, kind="stable")
    ordered = np.maximum(scores[order], 0.0)
    # Equation 7: the largest l for which the l smallest share what the others, at 1, leave.
    sums, kept = np.cumsum(ordered), np.arange(1, count + 1)
    left = cohort - (count - kept)
    fits = (left > 0) & (left * ordered <= sums)
    chances = np.ones(count)
    last = int(np.flatnonzero(fits).max(initial=-1)) + 1
    if last and sums[last - 1] > 0:
        chances[:last] = left[last - 1] * ordered[:last] / sums[last - 1]
    else:  # nobody stands out, for all have nothing
        chances = np.full(count, cohort / count)
    found = np.empty(count)
    found[order] = chances
    return (1 - floor) * found + floor * cohort / count


def systematic(chances: NDArray[np.float64], stream: np.random.Generator) -> NDArray[np.int64]:
    """Draw places, ascending, each with its chance: as many as the chances sum to.

    The places stand in a random order, each as long as its chance; whoever is at a random start
    or at one of the whole steps from it is drawn.
    """
    order = stream.permutation(len(chances))
    return np.sort(order[_hit(chances[order], stream.random())])


def _hit(lengths: NDArray[np.float64], start: float) -> NDArray[np.int64]:
    """Return the places that start, start + 1, start + 2, ... fall on."""
    ends = np.cumsum(lengths)
    count = round(float(ends[-1]))
    points = start + np.arange(count)
    found = np.searchsorted(ends * (count / ends[-1]), points, side="right")
    return np.minimum(found, len(lengths) - 1).astype(np.int64)
