"""Categories without groups: a value, or anything."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies._tree import Hierarchy, from_paths
from fedsim.anonymize.hierarchies._values import places
from fedsim.errors import ConfigError, Problem

__all__ = ["Categories"]


@dataclass(frozen=True, slots=True)
class Categories:
    """The values there may be, in the order in which neighbours are most alike, if there is one.

    `is_ordered`: they are steps of a scale (mild, moderate, severe), so that ranges mean something.
    """

    values: tuple[str, ...]
    is_ordered: bool = False

    def __post_init__(self) -> None:
        """Check that there are values, each once."""
        if not self.values or len(set(self.values)) < len(self.values):
            raise ConfigError([Problem("values", list(self.values), "a list of values, each once")])

    def build(self) -> Hierarchy:
        """Return the tree."""
        if len(self.values) == 1:
            tree = Hierarchy((np.zeros(1, dtype=np.int32),), (self.values,))
        else:
            tree, _ = from_paths([[value, "*"] for value in self.values])
        if not self.is_ordered:
            return tree
        return Hierarchy(tree.levels, tree.labels, np.arange(len(self.values), dtype=np.float64))

    def codes(self, column: Any) -> NDArray[np.int32]:
        """Return the leaf of each cell; -1 for values that are not listed."""
        return places(column, self.values)
