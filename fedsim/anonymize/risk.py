"""How likely somebody is found again in a released table, for three kinds of attackers.

El Emam and Dankar, "Protecting privacy using k-anonymity", JAMIA 15(5), 2008: the prosecutor knows
that the target is in the table, the journalist does not, and looks the target up in a population.
Dankar and El Emam, "A method for evaluating marketer re-identification risk", PAIS 2010: the
marketer wants as many as possible. The definitions are ARX's, too. Each supposes that the attacker
knows all quasi-identifiers and nothing else, and guesses within the class.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Risks", "risks"]


@dataclass(frozen=True, slots=True)
class Risks:
    """Probabilities. `share_above`: of rows whose prosecutor risk is above `threshold`.

    `journalist_is_prosecutor`: no population was given, so that the journalist's risk is not known
    and is given as the prosecutor's, which it cannot exceed.
    """

    prosecutor_max: float
    prosecutor_mean: float
    share_above: float
    threshold: float
    journalist_max: float
    journalist_mean: float
    journalist_is_prosecutor: bool
    marketer: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def risks(
    sizes: NDArray[np.integer],
    population: NDArray[np.integer] | None = None,
    *,
    threshold: float = 0.2,
) -> Risks:
    """Return the risks of classes of some sizes.

    `population` [classes]: how many people of a population each class fits; people of the table are
    among them, so fewer than the class has rows counts as that many. Tables without rows have risk
    0: there is nobody to find.

    >>> risks(np.array([2, 8])).prosecutor_max, risks(np.array([2, 8])).marketer
    (0.5, 0.2)
    """
    rows = int(sizes.sum())
    if rows == 0:
        return Risks(0.0, 0.0, 0.0, threshold, 0.0, 0.0, population is None, 0.0)
    each = 1 / sizes
    mean = len(sizes) / rows
    above = float(sizes[each > threshold].sum() / rows)
    if population is None:
        largest = float(each.max())
        return Risks(largest, mean, above, threshold, largest, mean, True, mean)
    fits = np.maximum(population, sizes)
    found = float((sizes / fits).sum() / rows)  # expected share of rows that are found
    return Risks(
        prosecutor_max=float(each.max()),
        prosecutor_mean=mean,
        share_above=above,
        threshold=threshold,
        journalist_max=float((1 / fits).max()),
        # El Emam's "average": whichever direction of matching, sample to population or back, is
        # likelier to succeed.
        journalist_mean=max(found, len(sizes) / float(fits.sum())),
        journalist_is_prosecutor=False,
        marketer=found,
    )
