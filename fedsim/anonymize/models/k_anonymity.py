"""k-anonymity: every class has at least k rows.

Sweeney, "k-anonymity: a model for protecting privacy", IJUFKS 2002, definition 3.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["allows", "reached"]


def reached(sizes: NDArray[np.int64]) -> int:
    """Return the k of a table whose classes have these sizes; 0 where there is no class.

    >>> reached(np.array([12, 10, 31]))
    10
    """
    return int(sizes.min(initial=sizes.max(initial=0)))


def allows(sizes: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Say which classes are large enough."""
    return sizes >= k
