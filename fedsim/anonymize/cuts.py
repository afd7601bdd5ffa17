"""How groups of rows are cut in smaller ones: decided from histograms, never from rows.

Top-down specialization (Fung, Wang and Yu, ICDE 2005) and Mondrian (LeFevre, DeWitt and
Ramakrishnan, ICDE 2006), level by level: each open group is cut along the quasi-identifier that
wins most, which is the loss (NCP) that its rows are spared by the cut. What is decided is a
function of sums over rows alone, so that a federation that knows sums only decides the same.

Along a hierarchy ("nodes"), the children that a protection allows become groups of their own and
the rest stays together; where it does not allow the rest, children are given back to it, smallest
first, or the rest's rows are set aside, for a tree of their own. Along the order of leaves ("sets")
a group is cut in two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._offers import Histogram, Offer, by_children, by_threshold
from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.protection import Protection, Target

__all__ = ["ASIDE", "Cuts", "Histogram", "choose", "follow", "joined"]

ASIDE = -1  # where rows go that are set aside


@dataclass(frozen=True, eq=False)
class Cuts:
    """What becomes of the groups of one level, for rows that nobody has seen as well.

    `quasi` int64 [groups]: the quasi-identifier that a group is cut along, -1 where it is not cut.
    Rows of `group[i]` whose leaf is `low[i]` or above, up to the group's next entry, go to group
    `to[i]` of the next level, which has `next_groups`; ASIDE where they are set aside. Entries
    ascend by group and leaf; the first of each group begins at leaf 0.
    """

    quasi: NDArray[np.int64]
    group: NDArray[np.int64]
    low: NDArray[np.int64]
    to: NDArray[np.int64]
    next_groups: int


def choose(
    histograms: Sequence[Histogram],
    trees: Sequence[Hierarchy],
    protection: Protection,
    of: Sequence[Target],
    *,
    how: Literal["sets", "nodes"] = "nodes",
    may_set_aside: bool = False,
) -> Cuts:
    """Decide how each group is cut; ties go to the first quasi-identifier and the lowest leaf.

    `histograms`: of each quasi-identifier, over the same groups 0, 1, ..., none of which is empty.
    """
    offer = by_threshold if how == "sets" else by_children
    offers = [
        offer(histogram, tree, protection, of, may_set_aside=may_set_aside)
        for histogram, tree in zip(histograms, trees, strict=True)
    ]
    # Rounded, so that equal wins tie however a machine adds.
    wins = np.round(np.stack([offer.wins for offer in offers]), 9)
    quasi = np.where(wins.max(axis=0) > 0, wins.argmax(axis=0), -1)
    return _numbered(offers, quasi)


def follow(cuts: Cuts, codes: NDArray[np.integer], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the next level's group of rows in groups that are cut, or ASIDE.

    `codes` [rows, quasi]: leaves; `at` [rows]: the group of each.
    """
    leaf = codes[np.arange(len(at)), cuts.quasi[at]].astype(np.int64)
    span = max(int(cuts.low.max(initial=0)), int(leaf.max(initial=0))) + 1
    entry = np.searchsorted(cuts.group * span + cuts.low, at * span + leaf, side="right") - 1
    found: NDArray[np.int64] = cuts.to[entry]
    return found


def joined(parts: Sequence[Cuts]) -> Cuts:
    """Return the cuts of all groups from those of consecutive ranges of groups."""
    quasi, group, low, to = [], [], [], []
    groups = next_groups = 0
    for part in parts:
        quasi.append(part.quasi)
        group.append(part.group + groups)
        low.append(part.low)
        to.append(np.where(part.to >= 0, part.to + next_groups, part.to))
        groups += len(part.quasi)
        next_groups += part.next_groups
    return Cuts(
        np.concatenate(quasi),
        np.concatenate(group),
        np.concatenate(low),
        np.concatenate(to),
        next_groups,
    )


def _numbered(offers: Sequence[Offer], quasi: NDArray[np.int64]) -> Cuts:
    """Put together what was taken of each offer, and number the groups it makes."""
    taken = [offer.pieces(quasi == i) for i, offer in enumerate(offers)]
    group, low, part = (np.concatenate(each) for each in zip(*taken, strict=True))
    order = np.lexsort((low, group))
    group, low, part = group[order], low[order], part[order]
    kept = part >= 0
    span = int(part.max(initial=0)) + 1
    keys, number = np.unique(group[kept] * span + part[kept], return_inverse=True)
    to = np.full(len(group), ASIDE, dtype=np.int64)
    to[kept] = number
    return Cuts(quasi, group, low, to, len(keys))
