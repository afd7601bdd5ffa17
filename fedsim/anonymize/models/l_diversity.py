"""l-diversity: no class betrays a sensitive value, in three senses.

Machanavajjhala, Kifer, Gehrke and Venkitasubramaniam, "l-diversity: privacy beyond k-anonymity",
ACM TKDD 2007: distinct (at least l different values), entropy (definition 4.1: the entropy of a
class's values is at least log l; here exp(entropy) is compared with l, so that the base of the
logarithm does not matter), recursive (definition 4.2: with counts r1 >= r2 >= ..., r1 < c (r_l +
r_(l+1) + ...)).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Diversity", "allows", "diversities", "most"]

Diversity = Literal["distinct", "entropy", "recursive"]

_ROUNDING = 1e-9  # exp(entropy) of two equal halves is 2 up to the last bits


def diversities(
    counts: NDArray[np.int64], kind: Diversity = "distinct", c: float = 3.0
) -> NDArray[np.float64]:
    """Return float64 [classes]: the largest l that each class has.

    For recursive (c, l) it is a whole number, 0 where not even l = 1 holds, which is r1 < c times
    the size of the class.

    >>> diversities(np.array([[3, 3, 0], [9, 0, 0]]), "entropy").round(9).tolist()
    [2.0, 1.0]
    """
    found: NDArray[np.float64]
    if kind == "distinct":
        found = (counts > 0).sum(axis=1).astype(np.float64)
        return found
    if kind == "entropy":
        sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shares = counts / sizes
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        found = np.exp(-(shares * logs).sum(axis=1))
        return found
    descending = -np.sort(-counts, axis=1)
    tails = descending[:, ::-1].cumsum(axis=1)[:, ::-1]  # tails[:, l - 1] = r_l + r_(l+1) + ...
    found = (descending[:, :1] < c * tails).sum(axis=1).astype(np.float64)  # tails descend
    return found


def most(values: int, kind: Diversity, c: float = 3.0) -> float:
    """Return the largest l that a class can have with so many sensitive values."""
    if kind != "recursive":
        return float(values)
    return float(diversities(np.ones((1, values), dtype=np.int64), kind, c)[0])


def allows(
    counts: NDArray[np.int64],
    l: float,  # noqa: E741 - the literature's name
    kind: Diversity = "distinct",
    c: float = 3.0,
) -> NDArray[np.bool_]:
    """Say which classes are diverse enough; of recursive, l is rounded up."""
    return diversities(counts, kind, c) >= l - _ROUNDING
