"""Rounding, top and bottom coding, microaggregation: against decimals, bounds and brute force."""

from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.microaggregation import Microaggregation, best_groups
from fedsim.anonymize.treatments.rounding import Rounding
from fedsim.anonymize.treatments.top_bottom import TopBottom
from fedsim.errors import ConfigError, DataError

CTX = ColumnContext("pay")
PARTS = [Rounding(5), TopBottom(0, 10), Microaggregation(2)]


@given(
    st.lists(st.decimals(-10_000, 10_000, places=3), max_size=10),
    st.sampled_from(["0.001", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "3", "5", "100"]),
)
def test_rounding_is_that_of_decimals(cells, multiple):
    """Against Python's decimals, ties to even, where the binary numbers have no ties."""
    found = Rounding(float(multiple)).apply(pd.Series([float(c) for c in cells]), CTX)
    step = Decimal(multiple)
    wanted = [(c / step).quantize(Decimal(1), ROUND_HALF_EVEN) * step for c in cells]
    assert found.tolist() == [float(w) for w in wanted]


def test_integers_stay_integers():
    whole = pd.Series([1, 3, 7, 8, -8, 12])
    assert Rounding(5).apply(whole, CTX).tolist() == [0, 5, 5, 10, -10, 10]
    assert Rounding(5.0).apply(whole.astype("int8"), CTX).dtype == "int64"
    assert Rounding(100).apply(pd.Series([127], dtype="int8"), CTX).tolist() == [100]
    missing = pd.Series([3, None], dtype="Int64")
    assert Rounding(5).apply(missing, CTX).equals(pd.Series([5, None], dtype="Int64"))
    assert Rounding(2.5).apply(whole, CTX).tolist() == [0, 2.5, 7.5, 7.5, -7.5, 12.5]


@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.none(), st.integers(-99, 99)), max_size=9),
    st.floats(-50, 0),
    st.floats(1, 50),
)
def test_coded_numbers_are_inside_and_the_others_as_they_were(cells, bottom, top):
    found = TopBottom(bottom, top).apply(pd.Series(cells, dtype=object), CTX)
    for before, after in zip(cells, found, strict=True):
        if before is None:
            assert np.isnan(after)
        else:
            assert after == min(max(before, bottom), top)


def test_ages_of_safe_harbor():
    ages = pd.Series([0, 89, 90, 91, 109])
    assert TopBottom(top=90).apply(ages, CTX).tolist() == [0, 89, 90, 90, 90]
    assert TopBottom(bottom=18).apply(ages, CTX).tolist() == [18, 89, 90, 91, 109]
    assert TopBottom(bottom=0.5).apply(ages, CTX).tolist() == [0.5, 89, 90, 91, 109]


@pytest.mark.parametrize(
    ("bottom", "top"), [(None, None), (5, 5), (6, 5)], ids=["none", "equal", "crossed"]
)
def test_bounds_must_be_some(bottom, top):
    with pytest.raises(ConfigError, match="top"):
        TopBottom(bottom, top)


def deviations(group):
    return sum((number - sum(group) / len(group)) ** 2 for number in group)


def least(ordered, k):
    """The least sum of squared deviations over all partitions of sorted numbers: by trying all."""

    @cache
    def rest(start):
        if start == len(ordered):
            return 0.0
        return min(
            (
                deviations(ordered[start:end]) + rest(end)
                for end in range(start + k, len(ordered) + 1)
            ),
            default=float("inf"),
        )

    return rest(0)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=14), st.integers(2, 5))
def test_groups_are_optimal(numbers, k):
    """Against every partition into groups of k or more, of any size."""
    ordered = tuple(sorted(numbers))
    if len(ordered) < k:
        return
    ends = best_groups(np.array(ordered, dtype=float), k)
    starts = [0, *ends[:-1]]
    assert ends[-1] == len(ordered)
    assert all(end - start >= k for start, end in zip(starts, ends, strict=True))
    found = sum(deviations(ordered[a:b]) for a, b in zip(starts, ends, strict=True))
    assert found == pytest.approx(least(ordered, k), abs=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(0, 3000))
def test_groups_are_optimal_in_longer_columns(seed, k, more):
    """Against the recursion number by number, with sums of integers, which are exact."""
    rng = np.random.default_rng(seed)
    ordered = np.sort(rng.integers(-1000, 1000, k + more))
    first = np.concatenate([[0], np.cumsum(ordered)])
    second = np.concatenate([[0], np.cumsum(ordered**2)])
    cost = np.full(len(ordered) + 1, np.inf)
    cost[0] = 0
    for end in range(k, len(ordered) + 1):
        start = np.arange(max(0, end - 2 * k + 1), end - k + 1)
        total, squares = first[end] - first[start], second[end] - second[start]
        cost[end] = (cost[start] + squares - total**2 / (end - start)).min()
    ends = best_groups(ordered.astype(float), k)
    groups = np.split(ordered, ends[:-1])
    assert min(map(len, groups)) >= k
    found = sum(((group - group.mean()) ** 2).sum() for group in groups)
    assert found == pytest.approx(cost[-1], rel=1e-9, abs=1e-6)


def test_small_differences_count_beside_large_numbers():
    assert best_groups(np.array([1, 2, 3, 4, 1e12, 1e12 + 1]), 2).tolist() == [2, 4, 6]
    far = 1e9 + np.array([0.0, 0.25, 5.0, 5.25, 9.0, 9.25])
    assert best_groups(far, 2).tolist() == [2, 4, 6]


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_each_group_gets_its_number(statistic):
    cells = pd.Series([11.0, None, 1.0, 2.0, 6.0, 10.0, 12.0, 50.0, 52.0, np.nan])
    found = Microaggregation(3, statistic).apply(cells, CTX)
    # Of 1 2 6 | 10 11 12 50 52 and 1 2 6 10 | 11 12 50 52 and 1 2 6 10 11 | 12 50 52, the last.
    low, high = ([1, 2, 6, 10, 11], [12, 50, 52])
    number = {"mean": np.mean, "median": np.median}[statistic]
    for before, after in zip(cells, found, strict=True):
        if np.isnan(before):
            assert np.isnan(after)
        else:
            assert after == pytest.approx(number(low if before in low else high))


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=40),
    st.integers(2, 6),
    st.randoms(use_true_random=False),
)
def test_every_number_is_shared_by_k(cells, k, random):
    column = pd.Series(cells, dtype=float)
    if 0 < column.count() < k:
        with pytest.raises(DataError, match=f"k = {k}"):
            Microaggregation(k).apply(column, CTX)
        return
    found = Microaggregation(k).apply(column, CTX)
    assert (found.value_counts() >= k).all()
    assert found.isna().tolist() == column.isna().tolist()
    assert found.sum() == pytest.approx(column.sum(), rel=1e-9, abs=1e-3)
    order = list(range(len(column)))
    random.shuffle(order)
    again = Microaggregation(k).apply(column.iloc[order], CTX)
    assert sorted(again.dropna()) == sorted(found.dropna())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([1, "x"], dtype=object),
        pd.Series([1, True], dtype=object),
        pd.Series([True, False]),
        pd.Series([1.0, np.inf]),
        pd.Series([2**53 + 1, 1]),
        pd.Series(pd.to_datetime(["2024-01-01"] * 2)),
        pd.Series(["1", "\u0661\u0662x"]),
        pd.Series([[1], 2], dtype=object),
    ],
    ids=["word", "mixed truth", "truth", "infinite", "too long", "dates", "text", "list"],
)
def test_what_is_no_number_is_refused(part, cells):
    with pytest.raises(DataError, match="column 'pay'"):
        part.apply(cells, CTX)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([], dtype=float),
        pd.Series([None, None], dtype=object),
        pd.Series([4.0] * 5),
        pd.Series(["4", " 4.5", "1e1", None, "-3"]),
        pd.Series([4, None, 5, 4], dtype="category"),
        pd.Series([4, None, 5], dtype="Int32"),
        pd.Series([4, 9], dtype="uint8"),
    ],
    ids=["empty", "missing", "constant", "text", "categories", "nullable", "bytes"],
)
def test_numbers_of_every_type(part, cells):
    found = part.apply(cells, CTX)
    assert found.isna().tolist() == cells.isna().tolist()
    assert found.index.equals(cells.index)
    assert pd.api.types.is_numeric_dtype(found.dtype)
    before = pd.to_numeric(cells.astype(object)).astype(float)
    assert np.all(np.abs(found.astype(float) - before).dropna() <= 10)
