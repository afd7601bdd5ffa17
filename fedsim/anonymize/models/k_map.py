"""k-map: every released class fits at least k people of a population, however few are released.

Sweeney, "Computational disclosure control", thesis, MIT 2001, section 4.3 (k-map); El Emam and
Dankar, "Protecting privacy using k-anonymity", JAMIA 2008. The population is a table of the same
quasi-identifiers in which the released people are; a row fits a class if each of its values is
among those that the class's generalized value covers.
"""

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.recoding import Recoding

__all__ = ["allows", "fitting", "reached"]


def reached(fitting: NDArray[np.int64]) -> int:
    """Return the k of classes that fit so many people; 0 where there is no class."""
    return int(fitting.min(initial=fitting.max(initial=0)))


def allows(fitting: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Say which classes fit enough people."""
    return fitting >= k


def fitting(recoding: Recoding, population: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return int64 [classes]: how many rows of the population fit each class.

    `population`: leaves of the same quasi-identifiers, [people, quasi]. Where classes overlap, a
    person fits several. Equal people are looked at once.
    """
    people, weights = np.unique(population, axis=0, return_counts=True)
    inside = [_inside(recoding, people, column) for column in range(people.shape[1])]
    found = np.zeros(recoding.classes, dtype=np.int64)
    for one, index in enumerate(recoding.index):
        fits = inside[0][index[0]]
        for column in range(1, len(index)):
            fits = fits & inside[column][index[column]]
        found[one] = weights[np.unpackbits(fits, count=len(people)).view(bool)].sum()
    return found


def _inside(recoding: Recoding, people: NDArray[np.integer], column: int) -> NDArray[np.uint8]:
    """Return bits [values, people / 8]: whether each generalized value covers each person's."""
    values = recoding.values[column]
    leaves = people[:, column]
    found = np.zeros((len(values), -(-len(people) // 8)), dtype=np.uint8)
    for value in range(len(values)):
        covered = np.zeros(int(max(leaves.max(initial=0) + 1, values.high.max(initial=0))), bool)
        for run in range(values.offsets[value], values.offsets[value + 1]):
            covered[values.low[run] : values.high[run]] = True
        found[value] = np.packbits(covered[leaves])
    return found
