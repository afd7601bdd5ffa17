"""Cuts against brute force over one group, and rows that follow them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.cuts import ASIDE, Cuts, choose, follow, joined
from fedsim.anonymize.mondrian import tally
from fedsim.anonymize.protection import Protection, targets
from fedsim.anonymize.table import Encoded

from .tables import TREES, tables

PLAIN = TREES[1:]  # without empty cells, whose place in a range has a test of its own


def plain(encoded):
    """Leave the column out that may be empty."""
    return type(encoded)(encoded.names[1:], PLAIN, encoded.codes[:, 1:], encoded.sensitive)


def cut(encoded, at, groups, protection, **how):
    """Choose cuts of groups of a table's rows."""
    with_values = protection.is_about_values
    histograms = tally(encoded, np.arange(encoded.rows), at, with_values=with_values)
    of = targets(encoded.sensitive) if with_values else ()
    assert all(len(set(h.group.tolist())) == groups for h in histograms)
    return choose(histograms, encoded.trees, protection, of, **how)


def best_threshold(encoded, k, aside):
    """Try every cut of all rows in two: return the column and the leaf of the best."""
    best = (0.0, -1, -1)
    for column, tree in enumerate(encoded.trees):
        leaves = encoded.codes[:, column]
        for low, high in pairwise(sorted(set(leaves.tolist()))):
            spared = float(encoded.rows * (len(set(leaves.tolist())) - 1))
            for half in (leaves[leaves <= low], leaves[leaves >= high]):
                spared -= len(half) * (len(set(half.tolist())) - 1)
            spared /= tree.leaves - 1
            small = [n for n in ((leaves <= low).sum(), (leaves >= high).sum()) if n < k]
            if len(small) > (1 if aside else 0):
                continue
            spared -= sum(small) * 0.6
            if round(spared, 9) > best[0]:
                best = (round(spared, 9), column, high)
    return best[1:]


@given(encoded=tables(least=4).map(plain), k=st.integers(2, 5), aside=st.booleans())
def test_the_cut_in_two_is_the_one_that_spares_most(encoded, k, aside):
    at = np.zeros(encoded.rows, dtype=np.int64)
    cuts = cut(encoded, at, 1, Protection(k=k), how="sets", may_set_aside=aside)
    column, leaf = best_threshold(encoded, k, aside)
    assert cuts.quasi.tolist() == [column]
    if column >= 0:
        assert cuts.low.tolist() == [0, leaf]
        to = follow(cuts, encoded.codes, at)
        for number in set(to.tolist()) - {ASIDE}:
            assert (to == number).sum() >= k
        assert ((to == ASIDE).sum() > 0) == (0 < min((to == n).sum() for n in set(to.tolist())) < k)


@pytest.mark.parametrize("how", ["sets", "nodes"])
@given(encoded=tables(least=4), k=st.integers(2, 5), aside=st.booleans())
def test_what_is_cut_off_is_large_enough_or_set_aside(how, encoded, k, aside):
    at = np.zeros(encoded.rows, dtype=np.int64)
    cuts = cut(encoded, at, 1, Protection(k=k), how=how, may_set_aside=aside)
    if cuts.quasi[0] < 0:
        assert len(cuts.group) == cuts.next_groups == 0
        return
    to = follow(cuts, encoded.codes, at)
    sizes = np.bincount(to[to >= 0], minlength=cuts.next_groups)
    assert len(sizes) == cuts.next_groups
    assert sizes.min() >= k
    assert aside or (to >= 0).all()
    assert sizes.max() < encoded.rows
    # Leaves that nobody has go somewhere, too: rows may come later.
    column = int(cuts.quasi[0])
    everything = np.zeros((TREES[column].leaves, len(TREES)), dtype=np.int32)
    everything[:, column] = np.arange(TREES[column].leaves)
    there = follow(cuts, everything, np.zeros(len(everything), dtype=np.int64))
    assert ((there >= ASIDE) & (there < cuts.next_groups)).all()


def test_children_that_are_too_small_stay_together_under_their_parent():
    # A: a 5, b 5; B: c 2, d 2; C: e 1. The root's children A and B are kept, C alone is not.
    leaves = np.repeat([0, 1, 2, 3, 4], [5, 5, 2, 2, 1])
    encoded = Encoded(("y",), (TREES[1],), leaves[:, None].astype(np.int32))
    at = np.zeros(len(leaves), dtype=np.int64)
    alone = cut(encoded, at, 1, Protection(k=4), how="nodes")
    # Without setting aside, B, the smallest, goes back to keep C company.
    assert follow(alone, encoded.codes, at).tolist() == [1] * 10 + [0] * 5
    aside = cut(encoded, at, 1, Protection(k=4), how="nodes", may_set_aside=True)
    assert follow(aside, encoded.codes, at).tolist() == [0] * 10 + [1] * 4 + [ASIDE]
    few = cut(encoded, at, 1, Protection(k=8), how="nodes")
    assert few.quasi.tolist() == [-1]


@given(encoded=tables(least=12), k=st.integers(2, 4), split=st.integers(1, 11))
def test_groups_are_cut_each_by_itself(encoded, k, split):
    at = (np.arange(encoded.rows) >= split).astype(np.int64)
    protection = Protection(k=k, t=0.5)
    both = cut(encoded, at, 2, protection, may_set_aside=True)
    parts = []
    for group in range(2):
        rows = np.flatnonzero(at == group)
        histograms = tally(encoded, rows, np.zeros(len(rows), dtype=np.int64), with_values=True)
        of = targets(encoded.sensitive)
        parts.append(choose(histograms, encoded.trees, protection, of, may_set_aside=True))
    again = joined(parts)
    for name in Cuts.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(both, name))


@given(st.lists(tables(least=1, most=20), min_size=2, max_size=4), st.integers(2, 5))
def test_histograms_of_several_tables_add(several, k):
    # What a federation decides from sums is what the union of its rows decides.
    codes = np.concatenate([one.codes for one in several])
    union = type(several[0])(several[0].names, TREES, codes)
    histograms = tally(
        union, np.arange(len(codes)), np.zeros(len(codes), dtype=np.int64), with_values=False
    )
    for column, histogram in enumerate(histograms):
        total = sum(
            np.bincount(o.codes[:, column], minlength=TREES[column].leaves) for o in several
        )
        assert histogram.counts.tolist() == total[total > 0].tolist()
        assert histogram.leaf.tolist() == np.flatnonzero(total).tolist()
