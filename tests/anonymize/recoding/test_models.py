"""The models against what the papers say, linear programs and counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import entropy, wasserstein_distance

from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.taxonomy import Taxonomy
from fedsim.anonymize.models import (
    delta_disclosure,
    k_anonymity,
    k_map,
    l_diversity,
    t_closeness,
)
from fedsim.anonymize.recoding import Recoding, distinct

VALUES = 6
TREE = Taxonomy(
    paths=(
        ("flu", "lung", "inner", "*"),
        ("asthma", "lung", "inner", "*"),
        ("ulcer", "stomach", "inner", "*"),
        ("gastritis", "stomach", "inner", "*"),
        ("burn", "skin", "outer", "*"),
        ("eczema", "skin", "outer", "*"),
    )
).build()
histograms = st.lists(st.integers(0, 9), min_size=VALUES, max_size=VALUES).filter(any)


def ground(distance):
    """The distance of any two values, from its definition."""
    found = np.zeros((VALUES, VALUES))
    for i in range(VALUES):
        for j in range(VALUES):
            if distance == "equal":
                found[i, j] = i != j
            elif distance == "ordered":
                found[i, j] = abs(i - j) / (VALUES - 1)
            else:
                common = min(n for n, level in enumerate(TREE.levels) if level[i] == level[j])
                found[i, j] = common / TREE.height
    return found


def moved(have, want, cost):
    """The earth mover's distance as the linear program that defines it."""
    n = len(have)
    rows = [np.repeat(np.eye(n)[i], n) for i in range(n)]
    columns = [np.tile(np.eye(n)[j], n) for j in range(n)]
    found = linprog(cost.reshape(-1), A_eq=rows + columns, b_eq=[*have, *want])
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("distance", ["equal", "ordered", "hierarchical"])
@given(class_=histograms, table=histograms)
def test_distances_are_those_of_the_linear_program(distance, class_, table):
    counts, reference = np.array([class_]), np.array(table)
    found = t_closeness.distances(counts, reference, distance, TREE)[0]
    want = moved(counts[0] / counts.sum(), reference / reference.sum(), ground(distance))
    assert found == pytest.approx(want, abs=1e-7)


@given(st.lists(histograms, min_size=1, max_size=5), histograms)
def test_ordered_distance_is_that_of_places_on_a_line(classes, table):
    counts = np.array(classes)
    found = t_closeness.distances(counts, np.array(table), "ordered")
    places = np.arange(VALUES) / (VALUES - 1)
    for one, far in zip(counts, found, strict=True):
        assert far == pytest.approx(wasserstein_distance(places, places, one, table), abs=1e-9)


def test_salaries_of_the_paper():
    # Li et al. 2007, section 4.2: 3000, 4000, 5000 and 6000, 8000, 11000 among 3000, ..., 11000.
    salaries = range(3000, 12000, 1000)
    counts = np.array(
        [[int(s in rows) for s in salaries] for rows in ({3000, 4000, 5000}, {6000, 8000, 11000})]
    )
    found = t_closeness.distances(counts, np.ones(9), "ordered")
    np.testing.assert_allclose(found, [0.375, 1 / 6], atol=1e-12)
    assert t_closeness.reached(counts, np.ones(9), "ordered") == pytest.approx(0.375)


def test_a_category_alone_is_as_near_as_can_be():
    tree = Categories(values=("yes",)).build()
    for distance in ("equal", "ordered", "hierarchical"):
        assert t_closeness.reached(np.array([[7]]), np.array([3]), distance, tree) == 0


def test_hierarchical_distance_needs_the_hierarchy():
    with pytest.raises(ValueError, match="hierarchy"):
        t_closeness.distances(np.ones((1, 3), dtype=np.int64), np.ones(3), "hierarchical")


@given(histograms)
def test_diversity_is_what_counting_says(class_):
    counts = np.array([class_])
    present = sorted((n for n in class_ if n), reverse=True)
    assert l_diversity.diversities(counts, "distinct")[0] == len(present)
    want = math.exp(entropy(np.array(class_) / sum(class_)))
    assert l_diversity.diversities(counts, "entropy")[0] == pytest.approx(want)
    for l in range(1, VALUES + 1):  # noqa: E741
        for c in (0.5, 1.0, 2.5):
            holds = present[0] < c * sum(present[l - 1 :])
            assert l_diversity.allows(counts, l, "recursive", c)[0] == holds


@given(st.integers(1, VALUES), st.sampled_from(["distinct", "entropy", "recursive"]))
def test_nothing_is_more_diverse_than_even_shares(values, kind):
    most = l_diversity.most(values, kind, 1.5)
    even = np.zeros((1, VALUES), dtype=np.int64)
    even[0, :values] = 7
    assert l_diversity.diversities(even, kind, 1.5)[0] == pytest.approx(most)
    assert l_diversity.allows(even, most, kind, 1.5)[0]


@given(histograms, histograms)
def test_disclosure_is_the_largest_log_ratio_of_values_that_the_table_has(class_, table):
    together = np.array(class_) + np.array(table)
    want = max(
        abs(math.log((mine / sum(class_)) / (all_ / together.sum()))) if mine else math.inf
        for mine, all_ in zip(class_, together.tolist(), strict=True)
        if all_
    )
    found = delta_disclosure.disclosures(np.array([class_]), together)
    assert found[0] == pytest.approx(want)
    assert delta_disclosure.reached(np.array([class_]), together) == found[0]
    assert not delta_disclosure.allows(found, found[0])[0]
    if math.isfinite(want):
        assert delta_disclosure.allows(found, want + 1e-6)[0]


def test_k_is_the_size_of_the_smallest_class():
    sizes = np.array([12, 10, 31])
    assert k_anonymity.reached(sizes) == 10
    assert k_anonymity.allows(sizes, 12).tolist() == [True, False, True]
    assert k_anonymity.reached(np.zeros(0, dtype=np.int64)) == 0


rows_of_two = st.tuples(st.integers(0, 4), st.integers(0, 4))
sets_of_leaves = st.sets(st.integers(0, 4), min_size=1)


@given(
    st.lists(st.tuples(sets_of_leaves, sets_of_leaves), min_size=1, max_size=6),
    st.lists(rows_of_two, min_size=1, max_size=40),
)
def test_a_class_fits_whom_its_values_cover(classes, people):
    columns = [distinct([np.array(sorted(class_[i])) for class_ in classes]) for i in range(2)]
    recoding = Recoding(
        np.arange(len(classes), dtype=np.int32),
        np.stack([index for index, _ in columns], axis=1),
        tuple(values for _, values in columns),
    )
    want = [sum(a in first and b in second for a, b in people) for first, second in classes]
    found = k_map.fitting(recoding, np.array(people))
    assert found.tolist() == want
    assert k_map.reached(found) == min(want)
    assert Counter(k_map.allows(found, 3).tolist())[True] == sum(n >= 3 for n in want)
