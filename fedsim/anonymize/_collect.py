"""Cells of a column that is read in pieces, as numbers of the different ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._values import text_of

__all__ = ["MISSING", "Collected", "as_numbers", "smallest"]

MISSING = "missing"  # an empty cell is a value like others: it may say something, too


class Collected:
    """The different cells of a column, in the order they were met, and the number of each cell."""

    def __init__(self) -> None:
        """Begin without cells."""
        self.texts: dict[str, int] = {}
        self._pieces: list[NDArray[Any]] = []

    def add(self, cells: Any) -> None:
        """Take the next piece of the column: a pandas series."""
        import pandas as pd

        indices, uniques = pd.factorize(cells, use_na_sentinel=True)
        there = [text_of(value) for value in uniques]
        if (indices < 0).any():
            there.append(MISSING)  # which -1 is then the number of
        numbers = [self.texts.setdefault(text, len(self.texts)) for text in there]
        self._pieces.append(smallest(np.array(numbers or [0], dtype=np.int64)[indices]))

    def codes(self) -> NDArray[np.int32]:
        """Return int32 [rows]: the number of each cell."""
        return np.concatenate([np.zeros(0, np.int32), *self._pieces]).astype(np.int32)


def smallest(numbers: NDArray[np.integer]) -> NDArray[Any]:
    """Return numbers >= 0 in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def as_numbers(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Return texts as finite numbers, or None where not every one is such.

    >>> as_numbers(["2", "1.50"]).tolist(), as_numbers(["2", "two"])
    ([2.0, 1.5], None)
    """
    try:
        found = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return found if len(found) and np.isfinite(found).all() else None
