"""ALIE, a little is enough: away from the mean by less than honest clients are themselves.

Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed learning",
NeurIPS 2019 (preventing convergence): mean - z times the standard deviation, coordinate by
coordinate, with z the largest for which s = floor(n / 2 + 1) - m honest clients are farther away,
the quantile of (n - m - s) / (n - m). The paper's adversary knows its own clients alone.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from torch import Tensor

from fedsim.attacks._seen import Knowledge, Seen, deviation, known
from fedsim.core import Memo

__all__ = ["Alie", "z_max"]


@dataclass(frozen=True, slots=True)
class Alie:
    """Send the mean minus `z` standard deviations of what the adversary `knows`.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    `z` unset is the paper's, for the clients of each round.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    z: float | None = None
    knows: Knowledge = "all"

    needs: ClassVar = "updates"

    def craft(self, seen: Seen, memory: Memo, stream: np.random.Generator) -> tuple[Tensor, Memo]:
        """Return the mean less z standard deviations."""
        vectors = known(seen, self.knows)
        z = z_max(seen.count, len(seen.own)) if self.z is None else self.z
        return vectors.mean(dim=0) - z * deviation(vectors), memory


def z_max(n: int, m: int) -> float:
    """Return the paper's z for m malicious of n clients; they are taken for fewer than half.

    >>> round(z_max(50, 24), 3), round(z_max(25, 5), 3)
    (1.426, 0.253)
    """
    supporters = max(n // 2 + 1 - m, 1)
    return NormalDist().inv_cdf(max(n - m - supporters, 0.5) / (n - m))
