"""The tree itself: levels nest, groups are runs, empty cells have a leaf of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.hierarchies._tree import from_paths, with_missing
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals


@st.composite
def paths(draw):
    """Leaves with random groups of random groups, in any order."""
    leaves = draw(st.integers(1, 12))
    groups = draw(st.lists(st.integers(0, 3), min_size=leaves, max_size=leaves))
    above = draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    return [[f"leaf{i}", f"g{g}", f"h{above[g]}", "*"] for i, g in enumerate(groups)]


@given(paths())
def test_every_group_is_a_run_with_the_leaves_its_paths_say(rows):
    tree, order = from_paths(rows)
    of = {row[0]: row for row in rows}
    assert sorted(order) == sorted(of)
    for level in range(1, tree.height + 1):
        for group, name in enumerate(tree.labels[level]):
            start, stop = tree.starts[level][group], tree.starts[level][group + 1]
            members = {leaf for leaf in of if of[leaf][level] == name}
            assert set(order[start:stop]) == members
            assert (tree.levels[level][start:stop] == group).all()


def test_levels_that_do_not_nest_are_refused():
    names = (("a", "b", "c"), ("x", "y"), ("*",))
    leaves, root = np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.int32)
    crossed = np.array([0, 1, 0], dtype=np.int32)
    with pytest.raises(ValueError, match="not runs"):
        Hierarchy((leaves, crossed, root), names)
    split = (np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32))
    with pytest.raises(ValueError, match="two groups"):
        Hierarchy((leaves, *split, root), (*names[:2], names[1], names[2]))
    with pytest.raises(ValueError, match="one group"):
        Hierarchy((leaves, np.array([0, 0, 1], np.int32)), names[:2])
    with pytest.raises(ValueError, match="in order"):
        Hierarchy((root, root), names[:2])
    with pytest.raises(ValueError, match="names for"):
        Hierarchy((leaves, root), (names[0], ("*", "+")))


def test_empty_cells_share_the_root_alone():
    tree = with_missing(Intervals(min=0, max=9, widths=(5,)).build())
    assert tree.leaves == 11
    assert tree.labels[1] == ("0-4", "5-9", "missing")
    assert tree.labels[2] == ("*",)
    assert tree.label(5, 10) == "5-9"
    assert tree.label(10, 11) == "missing"
    assert tree.label(9, 11) == "{9, missing}"
    only = with_missing(Categories(("yes",)).build())
    assert only.labels == (("yes", "missing"), ("*",))
