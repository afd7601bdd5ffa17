"""Recodings of random tables: what has to be so whatever the table is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize import mondrian
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.models import k_map, l_diversity, t_closeness
from fedsim.anonymize.protection import Protection, histogram
from fedsim.anonymize.recode import recode
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, DataError

from .tables import AGE, PLACE, SEX, TREES, boxes, groups_of, table, tables

HOW = ["sets", "nodes", "full-domain"]


def check(encoded, recoding, k, how):
    """Hold a recoding against the definition, row by row."""
    assert recoding.class_of.shape == (encoded.rows,)
    sizes = Counter(recoding.class_of[recoding.class_of >= 0].tolist())
    assert sorted(sizes) == list(range(recoding.classes))
    assert all(size >= k for size in sizes.values())
    found = boxes(recoding)
    for row, which in zip(encoded.codes.tolist(), recoding.class_of, strict=True):
        if which >= 0:
            assert all(leaf in values for leaf, values in zip(row, found[which], strict=True))
    for column, tree in enumerate(encoded.trees):
        which = recoding.index[recoding.class_of[recoding.class_of >= 0], column]
        leaves = encoded.codes[recoding.class_of >= 0, column]
        assert recoding.values[column].contain(which, leaves).all()
        if how != "sets":
            assert {box[column] for box in found} <= groups_of(tree)


@pytest.mark.parametrize("how", HOW)
@given(encoded=tables(least=2), k=st.integers(2, 6), seed=st.integers(0, 9))
def test_classes_are_large_enough_and_cover_their_rows_in_any_order(how, encoded, k, seed):
    if encoded.rows < k:
        with pytest.raises(DataError, match="fewer than k"):
            recode(encoded, Protection(k=k), how)
        return
    recoding = recode(encoded, Protection(k=k), how)
    check(encoded, recoding, k, how)
    assert recoding.suppressed == 0
    order = np.random.default_rng(seed).permutation(encoded.rows)
    other = recode(replace(encoded, codes=encoded.codes[order]), Protection(k=k), how)
    np.testing.assert_array_equal(other.class_of, recoding.class_of[order])
    assert boxes(other) == boxes(recoding)


def values_allowed(encoded, recoding, protection):
    counts = histogram(recoding.class_of, encoded.sensitive[0], recoding.classes)
    table_ = np.bincount(encoded.sensitive[0].codes, minlength=counts.shape[1])
    if protection.diversity != "none":
        kind, c = protection.diversity, protection.c
        assert l_diversity.allows(counts, protection.l, kind, c).all()
    if protection.t is not None:
        assert t_closeness.reached(counts, table_) <= protection.t + 1e-9


protections = st.builds(
    Protection,
    k=st.integers(2, 4),
    diversity=st.sampled_from(["none", "distinct", "entropy", "recursive"]),
    l=st.sampled_from([1.0, 1.5, 2.0]),
    t=st.sampled_from([None, 0.2, 0.5]),
)


@pytest.mark.parametrize("how", HOW)
@given(encoded=tables(least=4), protection=protections)
def test_sensitive_values_are_as_protected_as_was_asked(how, encoded, protection):
    try:
        recoding = recode(encoded, protection, how)
    except ConfigError as error:
        (problem,) = error.problems
        assert problem.path == "l"
        assert len(set(encoded.sensitive[0].codes.tolist())) < protection.l
        return
    except DataError as error:
        if "not even one class" not in str(error):
            raise
        one = np.zeros(encoded.rows, dtype=np.int32)
        counts = histogram(one, encoded.sensitive[0], 1)
        kind, c = protection.diversity, protection.c
        assert kind == "none" or not l_diversity.allows(counts, protection.l, kind, c)[0]
        return
    check(encoded, recoding, protection.k, how)
    values_allowed(encoded, recoding, protection)
    assert recoding.suppressed == 0


@pytest.mark.parametrize("how", HOW)
@given(encoded=tables(least=6), people=tables(least=0, most=30), k=st.integers(3, 8))
def test_every_class_fits_enough_of_the_population(how, encoded, people, k):
    everybody = replace(encoded, codes=np.concatenate([encoded.codes, people.codes]))
    protection = Protection(k=2, k_map=k)
    if everybody.rows < k:
        with pytest.raises(DataError):
            recode(encoded, protection, how, population=everybody)
        return
    try:
        recoding = recode(encoded, protection, how, population=everybody)
    except DataError:
        # What all released rows have in common may fit too few, where others are outside of it.
        whole = recode(encoded, Protection(k=encoded.rows), "sets" if how == "sets" else "nodes")
        assert k_map.reached(k_map.fitting(whole, everybody.codes)) < k
        return
    check(encoded, recoding, 2, how)
    fits = [
        sum(
            all(leaf in values for leaf, values in zip(person, box, strict=True))
            for person in everybody.codes.tolist()
        )
        for box in boxes(recoding)
    ]
    assert min(fits) >= k


@given(encoded=tables(least=5), share=st.floats(0, 0.6), k=st.integers(2, 5))
def test_full_domain_leaves_out_no_more_than_it_may(encoded, share, k):
    recoding = recode(encoded, Protection(k=k), "full-domain", max_suppression=share)
    check(encoded, recoding, k, "full-domain")
    assert recoding.suppressed <= share * encoded.rows + 1e-9


@pytest.mark.parametrize("how", ["sets", "nodes"])
def test_rows_are_left_out_only_where_the_protection_cannot_be_reached_with_them(how):
    # Of the federation's rows half have each value; here the second place has only one of them.
    rows = [(3, 0, 0, n % 2) for n in range(40)] + [(3, 4, 0, 0)] * 10
    encoded, reference = table(rows, values=2), [np.array([1, 1])]
    protection = Protection(k=4, t=0.05, t_reference="given")
    with pytest.raises(DataError, match="not even one class"):
        recode(encoded, protection, how, references=reference)
    with pytest.raises(DataError, match="left out"):
        recode(encoded, protection, how, references=reference, max_suppression=0.1)
    recoding = recode(encoded, protection, how, references=reference, max_suppression=0.2)
    assert recoding.suppressed == 10
    assert (recoding.class_of[40:] == -1).all()
    near = Protection(k=4, t=0.2, t_reference="given")
    assert recode(encoded, near, how, references=reference, max_suppression=0.2).suppressed == 0


@pytest.mark.parametrize("how", HOW)
def test_rows_that_are_all_alike_lose_nothing(how):
    recoding = recode(table([(5, 2, 1, 0)] * 7), Protection(k=7), how)
    assert boxes(recoding) == [(frozenset([5]), frozenset([2]), frozenset([1]))]


@pytest.mark.parametrize("how", HOW)
def test_constant_columns_stay_as_they_are(how):
    rows = [(n % 12, 3, 0, 0) for n in range(48)]
    recoding = recode(table(rows), Protection(k=4), how)
    assert all(box[1:] == (frozenset([3]), frozenset([0])) for box in boxes(recoding))
    assert recoding.classes == 12


@pytest.mark.parametrize("how", HOW)
def test_one_quasi_identifier_is_enough(how):
    encoded = Encoded(("x",), (PLACE,), np.repeat(np.arange(5, dtype=np.int32), 3)[:, None])
    recoding = recode(encoded, Protection(k=3), how)
    assert recoding.classes == 5
    coarse = recode(encoded, Protection(k=4), how)
    check(encoded, coarse, 4, how)


def test_empty_cells_are_no_part_of_a_range():
    missing = AGE.leaves - 1
    rows = [(2, 0, 0, 0)] * 2 + [(3, 0, 0, 0)] * 2 + [(missing, 0, 0, 0)] * 2
    (box,) = boxes(recode(table(rows), Protection(k=6), "sets"))
    assert box[0] == {2, 3, missing}


@pytest.mark.parametrize("how", HOW)
def test_a_domain_of_one_value_cannot_be_generalized(how):
    trees = (Categories(values=("only",)).build(), SEX)
    encoded = Encoded(("x", "y"), trees, np.array([[0, 0], [0, 1], [0, 0]], dtype=np.int32))
    (box,) = boxes(recode(encoded, Protection(k=3), how))
    assert box == (frozenset([0]), frozenset([0, 1]))


def test_what_cannot_be_is_refused_before_any_work():
    encoded = table([(1, 1, 1, n % 2) for n in range(8)])
    bare = replace(encoded, sensitive=())
    with pytest.raises(ConfigError, match="at most 2: column 's' has 2 different values"):
        recode(encoded, Protection(k=2, diversity="distinct", l=3))
    with pytest.raises(ConfigError, match="a sensitive column"):
        recode(bare, Protection(k=2, t=0.2))
    with pytest.raises(ConfigError, match="t_reference"):
        recode(encoded, Protection(k=2, t=0.2, t_reference="given"))
    with pytest.raises(ConfigError, match="k_map"):
        recode(encoded, Protection(k=2, k_map=4))
    with pytest.raises(ConfigError, match="max_suppression"):
        recode(encoded, Protection(k=2), max_suppression=1.0)
    with pytest.raises(ConfigError, match="references"):
        recode(encoded, Protection(k=2, t=0.2, t_reference="given"), references=[])
    other = Encoded(("x", "y"), TREES[:2], encoded.codes[:, :2])
    with pytest.raises(ConfigError, match="population"):
        recode(encoded, Protection(k=2, k_map=3), population=other)
    with pytest.raises(DataError, match="8 rows, fewer than k = 9"):
        recode(encoded, Protection(k=9))
    with pytest.raises(DataError, match="0 rows"):
        recode(replace(encoded, codes=encoded.codes[:0], sensitive=()), Protection(k=2))


@settings(max_examples=20)
@given(encoded=tables(least=10), k=st.integers(2, 4))
def test_histograms_in_pieces_make_the_same_cuts(encoded, k):
    protection = Protection(k=k, t=0.4)
    whole = recode(encoded, protection)
    usual = mondrian.CELLS_AT_ONCE
    mondrian.CELLS_AT_ONCE = 3 * AGE.leaves
    try:
        pieces = recode(encoded, protection)
    finally:
        mondrian.CELLS_AT_ONCE = usual
    np.testing.assert_array_equal(whole.class_of, pieces.class_of)
