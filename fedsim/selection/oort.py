"""Oort: clients with much to learn from and fast devices, and some that were never asked.

Lai et al., "Oort: efficient federated learning via guided participant selection", OSDI 2021,
equation 1 and Algorithm 1: a client's utility is |B| sqrt(mean of squared losses), less by
(T / t)^alpha where its time t is above the preferred T, plus sqrt(0.1 log R / L) for the round L it
was last asked in. A part of the cohort, which shrinks, is drawn from who was never asked; the rest
from those within `cutoff` of the best, with chances by utility. Deviations: the mean loss stands
for the root of the mean square, for clients report no other; utilities are scaled to at most 1
before the second term, and T is a quantile of known times, as in the authors' code; who was never
asked is drawn uniformly.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Learned, Pool, remembered

__all__ = ["Oort", "utilities"]


@dataclass(frozen=True, slots=True)
class Oort:
    """Exploit clients of high utility, explore others.

    `exploration` is the part of the cohort that explores in round 1, times `exploration_decay` in
    each, `exploration_least` at the end. `clip`: utilities above this quantile count as it.
    `alpha`, `preferred`: the penalty of clients slower than this quantile of times by the virtual
    clock (`[devices]`; without one nobody is). The pacer: where the utilities of `pacer_rounds`
    rounds sum to less than those of as many before, the quantile grows by `pacer_step`, up to 1.
    `most_times`: who was asked so often is not asked again, while there are others; unset: no
    limit.
    """

    exploration: Annotated[float, Ge(0), Le(1)] = 0.9
    exploration_decay: Annotated[float, Gt(0), Le(1)] = 0.98
    exploration_least: Annotated[float, Ge(0), Le(1)] = 0.2
    cutoff: Annotated[float, Gt(0), Le(1)] = 0.95
    clip: Annotated[float, Gt(0), Le(1)] = 0.95
    alpha: Annotated[float, Ge(0)] = 2.0
    preferred: Annotated[float, Gt(0), Le(1)] = 0.5
    pacer_step: Annotated[float, Ge(0), Le(1)] = 0.05
    pacer_rounds: Annotated[int, Ge(1)] = 20
    most_times: Annotated[int, Ge(1)] | None = None

    needs: ClassVar = "records"

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Draw the cohort of a round."""
        stream, clients = pool.rng(), self._left(pool, memory)
        times = memory["times"].numpy()[clients] if memory else np.zeros(len(clients))
        known, unknown = clients[times > 0], clients[times == 0]
        part = max(self.exploration_least, self.exploration * self.exploration_decay**pool.round)
        exploring = min(round(part * pool.cohort), len(unknown))
        exploiting = min(pool.cohort - exploring, len(known))
        exploring = min(pool.cohort - exploiting, len(unknown))
        drawn = [stream.choice(unknown, exploring, replace=False)]
        if exploiting:
            value = utilities(self, memory, known, pool.round)
            least = self.cutoff * np.sort(value)[-exploiting]
            near = np.flatnonzero(value >= least)
            chance = value[near] + 1e-12
            drawn.append(
                known[stream.choice(near, exploiting, replace=False, p=chance / chance.sum())]
            )
        return Drawn(np.sort(np.concatenate(drawn)).astype(np.int64))

    def learn(self, memory: Memo, learned: Learned) -> Memo:
        """Remember utility, time, how often and when last of every client that answered."""
        before = memory.get("times", torch.zeros(learned.population, dtype=torch.float64)).numpy()
        values = np.nan_to_num(learned.weights * learned.losses)
        rounds = np.full(len(learned.clients), float(learned.round))
        again = before[learned.clients] + 1
        return {
            "utility": remembered(memory, "utility", learned, values, 0.0),
            "seconds": remembered(memory, "seconds", learned, learned.seconds),
            "last": remembered(memory, "last", learned, rounds, 0.0),
            "times": remembered(memory, "times", learned, again, 0.0),
            **self._paced(memory, float(values.sum())),
        }

    def _paced(self, memory: Memo, utility: float) -> Memo:
        """Return the preferred quantile, and the utilities of the rounds since it could change."""
        preferred = memory.get("preferred", torch.tensor(self.preferred, dtype=torch.float64))
        before = memory.get("utilities", torch.zeros(0, dtype=torch.float64))
        sums = torch.cat([before, torch.tensor([utility], dtype=torch.float64)])
        if len(sums) == 2 * self.pacer_rounds:
            earlier, sums = sums[: self.pacer_rounds], sums[self.pacer_rounds :]
            if earlier.sum() > sums.sum():
                preferred = torch.clamp(preferred + self.pacer_step, max=1.0)
        return {"preferred": preferred, "utilities": sums.clone()}

    def _left(self, pool: Pool, memory: Memo) -> NDArray[np.int64]:
        if self.most_times is None or not memory:
            return pool.clients
        fresh: NDArray[np.int64] = pool.clients[
            memory["times"].numpy()[pool.clients] < self.most_times
        ]
        return fresh if len(fresh) >= pool.cohort else pool.clients


def utilities(
    oort: Oort, memory: Memo, clients: NDArray[np.int64], round: int
) -> NDArray[np.float64]:
    """Return the utilities of clients that were asked before, in round `round`."""
    value = memory["utility"].numpy()[clients]
    value = np.minimum(value, np.quantile(value, oort.clip))
    value = value / max(float(value.max()), np.finfo(np.float64).tiny)
    value = value + np.sqrt(0.1 * math.log(round) / memory["last"].numpy()[clients])
    seconds = memory["seconds"].numpy()[clients]
    if not np.isfinite(seconds).any():
        return np.asarray(value)
    wanted = float(np.nanquantile(seconds, float(memory["preferred"])))
    slow = np.nan_to_num(seconds, nan=wanted) > wanted
    ratio = np.divide(wanted, seconds, out=np.ones_like(seconds), where=slow)
    found: NDArray[np.float64] = value * ratio**oort.alpha
    return found
