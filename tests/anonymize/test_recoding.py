"""Generalized values: coverage, loss, mass and labels against sets counted by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.recoding import Recoding, distinct, of_ranges

LEAVES = 9
sets_of_leaves = st.lists(
    st.sets(st.integers(0, LEAVES - 1), min_size=1).map(sorted), min_size=1, max_size=20
)


@given(sets_of_leaves)
def test_values_are_the_sets_they_are_made_of(sets):
    index, values = distinct([np.array(leaves) for leaves in sets])
    assert len(values) == len({tuple(leaves) for leaves in sets})
    for leaves, value in zip(sets, index, strict=True):
        mass = np.zeros(LEAVES)
        mass[leaves] = 1 / len(leaves)
        np.testing.assert_allclose(values.mass(LEAVES)[value], mass, atol=1e-6)
        assert values.covered[value] == len(leaves)
        assert values.loss(LEAVES)[value] == (len(leaves) - 1) / (LEAVES - 1)
        every = np.arange(LEAVES)
        inside = values.contain(np.full(LEAVES, value), every)
        assert inside.tolist() == [leaf in leaves for leaf in every]


def test_ranges_are_values_of_one_run():
    index, values = of_ranges(np.array([3, 0, 3]), np.array([5, 9, 5]))
    assert index.tolist() == [1, 0, 1]
    tree = Intervals(min=0, max=8, widths=(3,)).build()
    assert values.labels(tree) == ["*", "3-4"]


def test_labels_of_sets_name_their_leaves():
    _, values = distinct([np.array([0, 2]), np.array([1, 2]), np.array([1])])
    assert values.labels(Categories(("a", "b", "c")).build()) == ["{a, c}", "{b, c}", "b"]
    ordered = Intervals(min=0, max=4).build()
    _, gaps = distinct([np.array([0, 1, 3])])
    assert gaps.labels(ordered) == ["{0-1, 3}"]


def test_suppressed_rows_are_in_no_class():
    _, values = of_ranges(np.array([0]), np.array([2]))
    recoding = Recoding(
        np.array([0, -1, 0], dtype=np.int32), np.zeros((1, 1), dtype=np.int32), (values,)
    )
    assert recoding.sizes.tolist() == [2]
    assert recoding.suppressed == 1
