import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.risk import risks

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(np.array)


def test_an_example_by_hand():
    """Three classes of 2, 3 and 5 rows, of 10, 3 and 50 people."""
    found = risks(np.array([2, 3, 5]), np.array([10, 3, 50]), threshold=0.2)
    assert found.prosecutor_max == 1 / 2
    assert found.prosecutor_mean == pytest.approx(3 / 10)
    assert found.share_above == pytest.approx(5 / 10)  # 1/5 is not above 0.2
    assert found.journalist_max == 1 / 3
    assert found.marketer == pytest.approx((2 / 10 + 3 / 3 + 5 / 50) / 10)
    assert found.journalist_mean == pytest.approx(max(found.marketer, 3 / 63))
    assert not found.journalist_is_prosecutor


@given(SIZES)
def test_the_mean_is_that_of_an_attacker_who_guesses_within_each_rows_class(sizes):
    found = risks(sizes)
    each = np.repeat(1 / sizes, sizes)
    assert found.prosecutor_mean == found.marketer == pytest.approx(each.mean())
    assert found.prosecutor_max == each.max()
    assert found.share_above == pytest.approx((each > 0.2).mean())
    assert found.journalist_is_prosecutor
    assert (found.journalist_max, found.journalist_mean) == (each.max(), found.prosecutor_mean)


@given(SIZES, st.data())
def test_a_population_never_raises_a_risk(sizes, data):
    more = data.draw(st.lists(st.integers(0, 90), min_size=len(sizes), max_size=len(sizes)))
    found = risks(sizes, sizes + np.array(more))
    assert found.journalist_max <= found.prosecutor_max
    assert found.marketer <= found.prosecutor_mean + 1e-12


def test_nobody_is_found_in_an_empty_table():
    assert risks(np.zeros(0, dtype=int)).prosecutor_max == 0
