"""Power-of-choice: of some candidates at random, those with the largest losses are asked.

Cho, Wang and Joshi, "Towards understanding biased client selection in federated learning", AISTATS
2022, section 4, the variant rpow-d: `candidates` are drawn without replacement, each with a chance
by its share of the data, and the cohort are those with the highest loss that they last reported
while training; who was never asked comes first. It is biased towards clients that do badly.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedsim.core import Memo
from fedsim.selection._pool import Drawn, Learned, Pool, remembered

__all__ = ["PowerOfChoice"]


@dataclass(frozen=True, slots=True)
class PowerOfChoice:
    """Ask those of the `candidates` with the largest known losses; unset: twice the cohort."""

    candidates: Annotated[int, Ge(1)] | None = None

    needs: ClassVar = "records"

    def draw(self, pool: Pool, memory: Memo) -> Drawn:
        """Draw the candidates, and return the cohort among them."""
        count = min(self.candidates or 2 * pool.cohort, len(pool.clients))
        share = pool.sizes[pool.clients].astype(np.float64)
        drawn = pool.rng().choice(pool.clients, count, replace=False, p=share / share.sum())
        losses = np.full(len(pool.sizes), np.nan)
        if "losses" in memory:
            losses = memory["losses"].numpy()
        known = np.nan_to_num(losses[drawn], nan=np.inf)
        # The order in which candidates were drawn is random, and decides between equals.
        chosen = drawn[np.argsort(-known, kind="stable")[: pool.cohort]]
        return Drawn(np.sort(chosen).astype(np.int64))

    def learn(self, memory: Memo, learned: Learned) -> Memo:
        """Remember the last loss of every client."""
        return {"losses": remembered(memory, "losses", learned, learned.losses)}
