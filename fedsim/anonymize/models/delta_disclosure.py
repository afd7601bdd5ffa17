"""delta-disclosure privacy: no class makes a sensitive value much likelier, or less likely.

Brickell and Shmatikov, "The cost of privacy", KDD 2008, definition 1: for every class and every
sensitive value, |log(share in the class / share in the table)| < delta, with the natural logarithm.
A value that the table has and a class lacks makes it infinite, as in the definition; values the
table lacks are not looked at.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["allows", "disclosures", "reached"]


def disclosures(counts: NDArray[np.int64], reference: NDArray[np.number]) -> NDArray[np.float64]:
    """Return float64 [classes]: each class's largest |log ratio| to the reference.

    >>> disclosures(np.array([[5, 5], [10, 0]]), np.array([0.5, 0.5])).tolist()
    [0.0, inf]
    """
    there = reference > 0
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        logs = np.log(counts[:, there] / sizes) - np.log(reference[there] / reference.sum())
    found: NDArray[np.float64] = np.abs(logs).max(axis=1, initial=0.0)
    return found


def reached(counts: NDArray[np.int64], reference: NDArray[np.number]) -> float:
    """Return the largest of all classes; the table is delta-disclosure private for any above."""
    return float(disclosures(counts, reference).max(initial=0.0))


def allows(found: NDArray[np.float64], delta: float) -> NDArray[np.bool_]:
    """Say which classes disclose less than delta."""
    return found < delta
