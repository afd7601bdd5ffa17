"""Small random tables for the tests of this folder."""

import numpy as np
from hypothesis import strategies as st

from fedsim.anonymize.hierarchies._tree import with_missing
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.hierarchies.taxonomy import Taxonomy
from fedsim.anonymize.table import Encoded, Sensitive

AGE = with_missing(Intervals(min=20, max=31, widths=(2, 4)).build())
PLACE = Taxonomy(
    paths=(("a", "A", "*"), ("b", "A", "*"), ("c", "B", "*"), ("d", "B", "*"), ("e", "C", "*"))
).build()
SEX = Categories(values=("f", "m")).build()
TREES = (AGE, PLACE, SEX)


def table(rows, values=3, trees=TREES):
    """Return the encoded table of rows of leaves, the last of each being the sensitive value."""
    cells = np.array(rows, dtype=np.int32).reshape(len(rows), len(trees) + 1)
    names = tuple("xyz"[: len(trees)])
    sensitive = Sensitive("s", cells[:, -1], tuple("stuvw"[:values]))
    return Encoded(names, trees, cells[:, :-1].copy(), (sensitive,))


def tables(least=1, most=60, values=3):
    """Draw tables, many of whose rows are alike."""
    row = st.tuples(
        st.integers(0, AGE.leaves - 1),
        st.integers(0, PLACE.leaves - 1),
        st.integers(0, SEX.leaves - 1),
        st.integers(0, values - 1),
    )
    rows = st.lists(row, min_size=1, max_size=12).flatmap(
        lambda some: st.lists(st.sampled_from(some), min_size=least, max_size=most)
    )
    spread = st.lists(row, min_size=least, max_size=most)
    return st.one_of(rows, spread).map(lambda drawn: table(drawn, values))


def boxes(recoding):
    """Return each class's generalized values as sets of leaves."""
    found = []
    for index in recoding.index:
        box = []
        for which, values in zip(index, recoding.values, strict=True):
            runs = range(values.offsets[which], values.offsets[which + 1])
            box.append(frozenset(n for i in runs for n in range(values.low[i], values.high[i])))
        found.append(tuple(box))
    return found


def groups_of(tree):
    """Return every group of a hierarchy as a set of leaves."""
    return {
        frozenset(np.flatnonzero(level == group).tolist())
        for level in tree.levels
        for group in range(int(level.max()) + 1)
    }
