"""Which clients take part in a round: plain functions of (population, cohort, stream)."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["uniform"]


def uniform(population: int, cohort: int | None, stream: np.random.Generator) -> NDArray[np.int64]:
    """Draw `cohort` distinct clients uniformly; all of them for None. Sorted, int64.

    >>> import numpy as np
    >>> len(uniform(1_000_000, 3, np.random.default_rng(0)))
    3
    """
    if cohort is None or cohort >= population:
        return np.arange(population, dtype=np.int64)
    drawn = stream.choice(population, size=cohort, replace=False, shuffle=False)
    return np.sort(drawn.astype(np.int64))
