"""The vector of a secure sum: what goes in comes out of the sum, whatever the ring."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import exact
from fedsim.core import Update
from fedsim.errors import ConfigError
from fedsim.secagg import lanes

RINGS = [8, 12, 16, 20, 24, 28, 32]
MAX_ABS, MAX_WEIGHT = 4.0, 6.0


def made(bits, cohort, metrics=("loss",), extra=(), dimension=3):
    form = exact.ring_form(
        dimension, bits=bits, max_abs=MAX_ABS, max_weight=MAX_WEIGHT, cohort=cohort
    )
    return lanes.layout(form, cohort, metrics, dict(extra))


@st.composite
def cohorts(draw):
    bits = draw(st.sampled_from(RINGS))
    most = draw(st.integers(1, 12))
    count = draw(st.integers(1, most))
    numbers = st.floats(-MAX_ABS, MAX_ABS, width=32)
    values = st.floats(-(2.0**20), 2.0**20) | st.sampled_from([np.nan, np.inf, -np.inf, 1e30])
    cohort = [
        Update(
            torch.tensor(draw(st.lists(numbers, min_size=3, max_size=3)), dtype=torch.float32),
            draw(st.floats(0.01, MAX_WEIGHT)),
            draw(st.fixed_dictionaries({}, optional={"loss": values, "other": values})),
        )
        for _ in range(count)
    ]
    return made(bits, most), cohort


def added(layout, cohort, seed=0):
    total = np.zeros(layout.length, dtype=np.uint32)
    for i, update in enumerate(cohort):
        total += lanes.encode(update, layout, np.random.default_rng([seed, i]))
    return lanes.modulo(total, layout.bits)


@settings(deadline=None)
@given(cohorts())
def test_the_sum_modulo_the_ring_is_the_exact_sum(given_):
    layout, cohort = given_
    found = lanes.decode(added(layout, cohort), layout, len(cohort))
    parts = [
        exact.encode_in_ring(update, layout.form, np.random.default_rng([0, i]))
        for i, update in enumerate(cohort)
    ]
    plain = exact.add(parts)
    assert torch.equal(found.total.vector, plain.vector)
    assert (found.total.weight, found.total.count) == (plain.weight, len(cohort))


@settings(deadline=None)
@given(cohorts())
def test_metrics_are_weighted_means_over_who_has_them(given_):
    layout, cohort = given_
    found = lanes.decode(added(layout, cohort), layout, len(cohort)).metrics
    having = [
        (Fraction(exact.weight_of(u.weight)), Fraction(u.metrics["loss"]))
        for u in cohort
        if abs(u.metrics.get("loss", np.nan)) <= 2.0**20
    ]
    if not having:
        assert found == {}
        return
    mean = sum(w * v for w, v in having) / sum(w for w, _ in having)
    assert found.keys() == {"loss"}
    assert abs(Fraction(found["loss"]) - mean) <= Fraction(1, 2**20)


@settings(deadline=None)
@given(st.sampled_from(RINGS), st.integers(1, 2000), st.integers(0, 3))
def test_digits_of_a_whole_cohort_never_carry(bits, cohort, metrics):
    try:
        layout = made(bits, cohort, [f"m{i}" for i in range(metrics)])
    except ConfigError:
        return
    assert cohort * (2**layout.digit_bits - 1) < 2**bits
    most = cohort * exact.weight_of(MAX_WEIGHT)
    assert 2 ** (layout.digit_bits * layout.digits[0] - 1) > most
    assert all(2 ** (layout.digit_bits * n - 1) > most * 2**40 for n in layout.digits[1::2])
    assert len(layout.digits) == 1 + 2 * metrics


def test_extreme_metrics_of_a_whole_cohort_survive():
    layout = made(8, 12)
    for value in (2.0**20, -(2.0**20)):
        cohort = [Update(torch.zeros(3), MAX_WEIGHT, {"loss": value})] * 12
        assert lanes.decode(added(layout, cohort), layout, 12).metrics == {"loss": value}


def test_further_vectors_are_summed_unweighted():
    layout = made(32, 5, extra={"b": 2, "a": 1})
    lane = {"a": torch.tensor([0.5]), "b": torch.tensor([1.0, -2.0])}
    total = added(layout, [Update(torch.ones(3), 2.0, lanes=lane)] * 4)
    found = exact.decode(lanes.decode(total, layout, 4).total, layout.form)
    assert found.lanes["a"].tolist() == [2.0]
    assert found.lanes["b"].tolist() == [4.0, -8.0]
    with pytest.raises(exact.InvalidUpdateError, match="lanes"):
        lanes.encode(Update(torch.ones(3), 2.0), layout, np.random.default_rng(0))


@pytest.mark.parametrize("bits", RINGS)
def test_a_client_that_sends_noise_instead_of_a_vector_is_noticed(bits):
    layout = made(bits, 5, dimension=200)
    total = added(layout, [Update(torch.ones(200), 2.0)] * 4)
    noticed = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 2**bits, layout.length, dtype=np.uint32)
        with pytest.raises(lanes.GarbledSumError) as error:
            lanes.decode(total + noise, layout, 5)
        noticed += error.value.reason in ("count", "range", "weight", "metrics")
    assert noticed == 20


def test_a_count_that_is_not_that_of_the_clients_is_noticed():
    layout = made(16, 5)
    total = added(layout, [Update(torch.ones(3), 2.0)] * 4)
    for clients in (3, 5):
        with pytest.raises(lanes.GarbledSumError) as error:
            lanes.decode(total, layout, clients)
        assert error.value.reason == "count"


def test_a_cohort_that_cannot_be_counted_is_refused():
    form = exact.ring_form(1, bits=8, max_abs=1.0, max_weight=1.0, cohort=10)
    with pytest.raises(ConfigError, match=r"rounds.cohort = 256: at most 255"):
        lanes.layout(form, 256)


def test_what_must_not_be_summed_is_not_encoded():
    layout = made(20, 5)
    for vector, weight in (([9.0, 0, 0], 1.0), ([np.nan, 0, 0], 1.0), ([0, 0, 0], 7.0)):
        with pytest.raises(exact.InvalidUpdateError):
            lanes.encode(Update(torch.tensor(vector), weight), layout, np.random.default_rng(0))
