"""Domains with very many leaves, as tables that share a cut count them: by groups of the hierarchy.

The vector of a level's sum has a number for each leaf, whether anybody has it or not, since whose
leaves they are is what nobody is to learn. So its length is bounded here by what is public alone: a
column with more than `MOST_LEAVES` leaves is counted, and cut, by the finest level of its hierarchy
with at most so many groups. What is released covers whole groups of that level.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.recoding import Recoding, Values
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, Problem

__all__ = ["MOST_LEAVES", "MOST_NUMBERS", "coarse", "require_countable", "widened"]

MOST_LEAVES = 2**14  # five-digit codes by their first four digits, and empty cells
MOST_NUMBERS = 2**23  # of the first sum: 32 MiB from each client


def coarse(encoded: Encoded) -> Encoded:
    """Return a table with the large ones of its domains by groups of their hierarchies."""
    levels = [_level(tree) for tree in encoded.trees]
    if not any(levels):
        return encoded
    codes = np.empty_like(encoded.codes)
    for j, (tree, level) in enumerate(zip(encoded.trees, levels, strict=True)):
        codes[:, j] = tree.levels[level][encoded.codes[:, j]]
    trees = tuple(_above(*pair) for pair in zip(encoded.trees, levels, strict=True))
    return replace(encoded, trees=trees, codes=codes)


def widened(recoding: Recoding, encoded: Encoded) -> Recoding:
    """Return a recoding of `coarse(encoded)` over the leaves of `encoded`."""
    if not any(map(_level, encoded.trees)):
        return recoding
    values = tuple(_over_leaves(*pair) for pair in zip(recoding.values, encoded.trees, strict=True))
    return replace(recoding, values=values)


def require_countable(encoded: Encoded, values: int) -> None:
    """Raise `ConfigError` for columns that are too large to be counted.

    `values`: how many sensitive values each leaf is counted by.
    """
    hint = "or generalize on each client alone: anonymization.cut=local"
    problems = []
    for name, tree in zip(encoded.names, encoded.trees, strict=True):
        if tree.leaves > MOST_LEAVES and len(tree.labels[_level(tree)]) < 2:
            accepted = f"a level with 2 to {MOST_LEAVES:,} groups, with a cut that is shared"
            said = f"{tree.leaves:,} leaves"
            problems.append(Problem(f"columns.{name}.hierarchy", said, accepted, hint))
    groups = {
        name: len(tree.labels[_level(tree)])
        for name, tree in zip(encoded.names, encoded.trees, strict=True)
    }
    if not problems and sum(groups.values()) * values > MOST_NUMBERS:
        largest = max(groups, key=groups.__getitem__)
        said = f"{groups[largest]:,} groups, each by {values:,} sensitive values"
        accepted = (
            f"fewer: a sum has at most {MOST_NUMBERS:,} numbers with a cut that is shared, and all "
            f"columns would need {sum(groups.values()) * values:,}"
        )
        problems.append(Problem(f"columns.{largest}.hierarchy", said, accepted, hint))
    if problems:
        raise ConfigError(problems)


def _level(tree: Hierarchy) -> int:
    return next(i for i, names in enumerate(tree.labels) if len(names) <= MOST_LEAVES)


@lru_cache(maxsize=16)
def _above(tree: Hierarchy, level: int) -> Hierarchy:
    """Return the hierarchy above one of its levels, whose groups are the leaves."""
    if not level:
        return tree
    first = tree.starts[level][:-1]
    levels = tuple(groups[first] for groups in tree.levels[level:])
    positions = None
    if tree.positions is not None:
        positions = np.add.reduceat(tree.positions, first) / np.diff(tree.starts[level])
    return Hierarchy(levels, tree.labels[level:], positions, tree.has_missing)


def _over_leaves(values: Values, tree: Hierarchy) -> Values:
    starts = tree.starts[_level(tree)]
    return Values(values.offsets, starts[values.low], starts[values.high])
