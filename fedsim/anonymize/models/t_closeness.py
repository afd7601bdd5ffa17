"""t-closeness: the sensitive values of every class are distributed nearly as they are in general.

Li, Li and Venkatasubramanian, "t-closeness: privacy beyond k-anonymity and l-diversity", ICDE 2007.
The distance is the earth mover's, with one of three distances between two values: all alike
(section 4.2, "equal distance": the total variation), by their rank (formula 1, "ordered distance":
|i - j| / (m - 1)), by the hierarchy (formula 2, "hierarchical distance": the height of the lowest
common ancestor by that of the root, summed up the tree as in formula 3).
"""

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.schema import Distance

__all__ = ["allows", "distances", "reached"]

_ROUNDING = 1e-12


def distances(
    counts: NDArray[np.int64],
    reference: NDArray[np.number],
    distance: Distance = "equal",
    tree: Hierarchy | None = None,
) -> NDArray[np.float64]:
    """Return float64 [classes]: how far each is from the reference, a distribution or its counts.

    `tree`: for hierarchical distance; its leaves are the values.

    >>> distances(np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0]]), np.ones(9), "ordered")  # the paper's
    array([0.375])
    """
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    extra = counts / sizes - reference / reference.sum()
    if distance == "equal" or counts.shape[1] < 2:
        return _half(extra)
    if distance == "ordered":
        moved = np.abs(np.cumsum(extra, axis=1)).sum(axis=1)
        found: NDArray[np.float64] = moved / (counts.shape[1] - 1)
        return found
    if tree is None:
        raise ValueError("hierarchical distance needs a hierarchy")
    return _up_the_tree(extra, tree)


def reached(
    counts: NDArray[np.int64],
    reference: NDArray[np.number],
    distance: Distance = "equal",
    tree: Hierarchy | None = None,
) -> float:
    """Return the t of a table: its farthest class's distance."""
    return float(distances(counts, reference, distance, tree).max(initial=0.0))


def allows(found: NDArray[np.float64], t: float) -> NDArray[np.bool_]:
    """Say which of these distances are near enough."""
    return found <= t + _ROUNDING


def _half(extra: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.abs(extra).sum(axis=1) / 2
    return found


def _up_the_tree(extra: NDArray[np.float64], tree: Hierarchy) -> NDArray[np.float64]:
    # What an ancestor's children have too much and too little is moved below it as far as it
    # cancels, at the cost of the ancestor's height; the rest goes up.
    found = np.zeros(len(extra))
    of_children, group_of_child = extra, tree.levels[0]
    for level in range(1, tree.height + 1):
        first_leaf = np.flatnonzero(np.diff(group_of_child, prepend=-1))
        parents = tree.levels[level][first_leaf]
        starts = np.flatnonzero(np.diff(parents, prepend=-1))
        too_much = np.add.reduceat(np.maximum(of_children, 0), starts, axis=1)
        too_little = np.add.reduceat(np.maximum(-of_children, 0), starts, axis=1)
        found += level / tree.height * np.minimum(too_much, too_little).sum(axis=1)
        of_children, group_of_child = too_much - too_little, tree.levels[level]
    return found
