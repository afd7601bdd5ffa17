"""Moments against exact fractions, and the same whatever the order."""

from fractions import Fraction
from math import sqrt

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data._moments import LARGEST, moments

numbers = st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=30)
moderate = st.lists(st.floats(-1e100, 1e100, allow_subnormal=False), min_size=1, max_size=30)


@given(numbers)
def test_the_mean_is_that_of_fractions(values: list[float]) -> None:
    assert moments(np.array(values)).mean == float(sum(map(Fraction, values)) / len(values))


@given(moderate)
def test_the_deviation_is_that_of_fractions(values: list[float]) -> None:
    values = [value if abs(value) > 1e-100 else 0.0 for value in values]  # no square underflows
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    variance = sum((x - mean) ** 2 for x in exact) / len(exact)
    assert moments(np.array(values)).deviation == sqrt(variance)


@given(numbers, st.integers(0, 30), st.randoms())
def test_parts_in_any_order_add_up_to_the_same(values, cut, shuffling) -> None:
    whole = moments(np.array(values))
    shuffled = list(values)
    shuffling.shuffle(shuffled)
    assert moments(np.array(shuffled[:cut])) + moments(np.array(shuffled[cut:])) == whole
