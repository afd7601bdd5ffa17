"""Cyclic cohorts: nobody comes again too soon, everybody comes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import rng
from fedsim.privacy.separation import Participation, cyclic, participation


def order(seed: int) -> np.random.Generator:
    return rng.stream(seed, "cyclic")


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 100))
def test_nobody_comes_again_too_soon(population: int, cohort: int, start: int, seed: int) -> None:
    cohort = min(cohort, population)
    separation = population // cohort
    rounds = range(start, start + 5 * separation + 3)
    cohorts = [cyclic(population, cohort, separation, t, order(seed)) for t in rounds]
    assert all(len(set(own.tolist())) == cohort for own in cohorts)
    assert all(own.dtype == np.int64 and (np.diff(own) > 0).all() for own in cohorts)
    found = participation(own.tolist() for own in cohorts)
    assert found.separation is None or found.separation >= separation
    assert found.most <= -(-len(cohorts) // separation)


def test_everybody_comes_equally_often() -> None:
    cohorts = [cyclic(60, 6, 10, t, order(1)).tolist() for t in range(30)]
    assert np.bincount(np.concatenate(cohorts)).tolist() == [3] * 60
    assert participation(cohorts) == Participation(separation=10, most=3)
    assert cohorts[:10] == cohorts[10:20]


def test_the_order_depends_on_the_seed_alone() -> None:
    first, again, other = (cyclic(1000, 10, 5, 7, order(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.arange(70, 80))


def test_cohorts_that_come_again_too_soon_are_refused() -> None:
    with pytest.raises(ValueError, match="cohorts of at most 10"):
        cyclic(100, 11, 10, 0, order(1))


def test_a_log_that_breaks_the_promise_is_seen() -> None:
    assert participation([[1, 2], [3], [2]]) == Participation(separation=2, most=2)
    assert participation([]) == Participation(separation=None, most=0)
