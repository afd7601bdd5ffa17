"""Exact sums against big-integer and float oracles."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import exact
from fedsim.core import Update
from fedsim.errors import ConfigError

DIMENSION = 5
FORM = exact.fixed_point(DIMENSION, max_abs=64.0, max_weight=100.0, cohort=50)

vectors = st.lists(st.floats(-64, 64, width=32), min_size=DIMENSION, max_size=DIMENSION)
updates = st.builds(
    lambda v, w: Update(torch.tensor(v, dtype=torch.float32), float(w)),
    vectors,
    st.integers(1, 100),
)


@given(st.lists(updates, min_size=1, max_size=50))
def test_a_sum_is_within_half_a_step_per_client_of_the_rational_one(many):
    total = exact.decode(exact.add(exact.encode(u, FORM) for u in many), FORM)
    for i in range(DIMENSION):
        oracle = sum(Fraction(u.vector[i].item()) * Fraction(u.weight) for u in many)
        bound = Fraction(len(many), 2 ** (FORM.fraction_bits + 1))
        # decode rounds once to float64: half a unit in the last place of the sum
        ulp = Fraction(float(np.spacing(abs(float(oracle)) + 1e-300)))
        assert abs(Fraction(total.vector[i].item()) - oracle) <= bound + ulp
    assert total.weight == sum(u.weight for u in many)
    assert total.count == len(many)


@given(st.lists(updates, min_size=2, max_size=20), st.randoms())
def test_order_and_grouping_change_no_bit(many, random):
    straight = exact.add(exact.encode(u, FORM) for u in many)
    shuffled = list(many)
    random.shuffle(shuffled)
    cut = random.randrange(1, len(many))
    halves = [
        exact.add(exact.encode(u, FORM) for u in part) for part in (shuffled[:cut], shuffled[cut:])
    ]
    assert torch.equal(exact.add(halves).vector, straight.vector)
    assert exact.add(halves).weight == straight.weight


@given(
    st.lists(st.floats(-(2.0**60), 2.0**60), min_size=1, max_size=9),
    st.sampled_from([1.0, 0.5, 3.0, 2.0**-9]),
)
def test_rounding_is_half_to_even_of_the_double_product(values, scale):
    total = torch.arange(len(values))
    exact._add_rounded(total, torch.tensor(values, dtype=torch.float64), scale)
    assert total.tolist() == [i + round(value * scale) for i, value in enumerate(values)]


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=9))
def test_halves_are_rounded_to_even(twice):
    total = torch.zeros(len(twice), dtype=torch.int64)
    exact._add_rounded(total, torch.tensor(twice, dtype=torch.float64), 0.5)
    assert total.tolist() == [round(Fraction(value, 2)) for value in twice]


def test_a_float_sum_does_depend_on_the_order():
    """What exact sums are for: the same numbers, two orders, two float results."""
    values = torch.tensor([1e8, 1.0, -1e8], dtype=torch.float32)
    assert values[0] + values[1] + values[2] != values[0] + values[2] + values[1]


def test_the_largest_sum_there_can_be_does_not_overflow():
    largest = Update(torch.full((DIMENSION,), 64.0), 100.0)
    total = exact.decode(exact.add(exact.encode(largest, FORM) for _ in range(50)), FORM)
    assert torch.equal(total.vector, torch.full((DIMENSION,), 64.0 * 100 * 50, dtype=torch.float64))


@given(st.floats(1e-3, 1e6), st.floats(1, 1e6), st.integers(1, 10**6))
def test_every_format_has_room_for_its_worst_cohort(max_abs, max_weight, cohort):
    try:
        form = exact.fixed_point(1, max_abs=max_abs, max_weight=max_weight, cohort=cohort)
    except ConfigError:
        return
    worst = cohort * (
        Fraction(max_abs) * Fraction(max_weight) * 2**form.fraction_bits + Fraction(1, 2)
    )
    assert worst < 2**63
    assert form.fraction_bits >= 16


def test_a_format_without_precision_is_refused():
    with pytest.raises(ConfigError, match=r"max_abs_update = 1000000000000.0: at most"):
        exact.fixed_point(1, max_abs=1e12, max_weight=1e5, cohort=100)


@pytest.mark.parametrize(
    ("vector", "weight", "reason"),
    [
        ([0, 0, float("nan"), 0, 0], 1, "NaN or infinity"),
        ([0, 0, float("inf"), 0, 0], 1, "NaN or infinity"),
        ([0, -65.0, 0, 0, 0], 1, "diverged"),
        ([0, 0, 0], 1, "shape"),
        ([[0, 0, 0, 0, 0]], 1, "shape"),
        ([0, 0, 0, 0, 0], 0, "weight"),
        ([0, 0, 0, 0, 0], -3, "weight"),
        ([0, 0, 0, 0, 0], float("nan"), "weight"),
        ([0, 0, 0, 0, 0], float("inf"), "weight"),
        ([0, 0, 0, 0, 0], 101, "weight"),
    ],
)
def test_hostile_updates_are_refused(vector, weight, reason):
    with pytest.raises(exact.InvalidUpdateError, match=reason):
        exact.encode(Update(torch.tensor(vector, dtype=torch.float32), weight), FORM)


def test_lanes_are_summed_unweighted():
    many = [
        Update(torch.ones(DIMENSION), 3.0, lanes={"c": torch.full((2,), float(i))})
        for i in range(4)
    ]
    total = exact.decode(exact.add(exact.encode(u, FORM) for u in many), FORM)
    assert total.lanes["c"].tolist() == [6.0, 6.0]
    assert total.mean().tolist() == [1.0] * DIMENSION


def test_different_lanes_cannot_be_added():
    parts = [
        exact.encode(Update(torch.ones(DIMENSION), 1.0, lanes={n: torch.ones(1)}), FORM)
        for n in "ab"
    ]
    with pytest.raises(exact.InvalidUpdateError, match="lanes"):
        exact.add(parts)


RINGS = st.sampled_from([8, 12, 16, 20, 24, 28, 32])


def ring(bits, max_abs, max_weight, cohort, dimension=1):
    try:
        return exact.ring_form(
            dimension, bits=bits, max_abs=max_abs, max_weight=max_weight, cohort=cohort
        )
    except ConfigError:
        return None


class Extreme:
    """A stream whose every draw is the largest there is, or the least."""

    def __init__(self, value):
        self.value = value

    def random(self, count):
        return np.full(count, self.value)


@settings(deadline=None)
@given(RINGS, st.floats(2.0**-20, 2.0**20, width=32), st.floats(1e-3, 1e6), st.integers(1, 10**6))
def test_no_cohort_can_leave_half_of_its_ring(bits, max_abs, max_weight, cohort):
    """The worst there is: every client at the bounds, every number rounded away from zero."""
    form = ring(bits, max_abs, max_weight, cohort)
    if form is None:
        return
    for sign, draw in ((1, 1 - 2.0**-53), (-1, 0.0)):
        update = Update(torch.tensor([sign * max_abs], dtype=torch.float32), float(max_weight))
        part = exact.encode_in_ring(update, form, Extreme(draw))
        assert abs(int(part.vector)) <= exact.largest(form)
    assert cohort * exact.largest(form) < 2 ** (bits - 1)


@settings(deadline=None)
@given(RINGS, st.floats(1e-6, 1e6), st.floats(1, 1e6), st.integers(1, 10**6))
def test_a_ring_has_the_finest_steps_there_are(bits, max_abs, max_weight, cohort):
    form = ring(bits, max_abs, max_weight, cohort)
    reach = Fraction(max_abs) * Fraction(max_weight)
    if form is None:
        assert cohort * (8 + 1) >= 2 ** (bits - 1)  # four steps, and there may be nearly eight
        return
    finer = math.ceil(reach * Fraction(2) ** (form.fraction_bits + 1)) + 1
    assert cohort * finer >= 2 ** (bits - 1)
    assert reach * Fraction(2) ** form.fraction_bits >= 4


def test_a_ring_that_is_too_small_is_refused_with_one_that_is_not():
    with pytest.raises(ConfigError, match=r"secure_sum.bits = 8: at least 12 for 40 clients"):
        exact.ring_form(3, bits=8, max_abs=8.0, max_weight=10.0, cohort=40)
    assert ring(12, 8.0, 10.0, 40) is not None
    with pytest.raises(ConfigError, match=r"rounds.cohort = 1000000000: .* a smaller cohort"):
        exact.ring_form(3, bits=32, max_abs=8.0, max_weight=10.0, cohort=10**9)


def test_rounding_in_a_ring_is_unbiased():
    """Over many draws the mean is the number itself, between steps too: 4 standard errors."""
    form = exact.ring_form(5, bits=16, max_abs=1.0, max_weight=10.0, cohort=50)
    update = Update(torch.tensor([0.3, -0.3, 1e-4, -0.99, 0.5]), 7.0)
    draws = 4000
    total = sum(
        exact.encode_in_ring(update, form, np.random.default_rng(seed)).vector.double()
        for seed in range(draws)
    )
    wanted = update.vector.double() * update.weight * 2.0**form.fraction_bits
    below = wanted.floor()
    error = ((wanted - below) * (below + 1 - wanted)).sqrt() / draws**0.5
    assert ((total / draws - wanted).abs() <= 4 * error).all()
    assert error.max() > 0  # there is something to round


@settings(deadline=None)
@given(st.lists(updates, min_size=1, max_size=50), st.integers(0, 10**6))
def test_a_weighted_mean_is_off_by_less_than_a_step(many, seed):
    """A step of the mean: one of the sum for every client, over the weight of all."""
    form = exact.ring_form(DIMENSION, bits=32, max_abs=64.0, max_weight=100.0, cohort=50)
    parts = [
        exact.encode_in_ring(u, form, np.random.default_rng([seed, i])) for i, u in enumerate(many)
    ]
    total = exact.decode(exact.add(parts), form)
    weight = sum(Fraction(u.weight) for u in many)
    step = Fraction(2) ** -form.fraction_bits * len(many) / weight
    for i in range(DIMENSION):
        oracle = sum(Fraction(u.vector[i].item()) * Fraction(u.weight) for u in many) / weight
        assert abs(Fraction(total.mean()[i].item()) - oracle) <= step * (1 + Fraction(1, 10**6))
    assert total.weight == weight
