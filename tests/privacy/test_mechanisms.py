import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from fedsim.privacy.events import Release
from fedsim.privacy.mechanisms._rows import clipped
from fedsim.privacy.mechanisms.gaussian import (
    Gaussian,
    analytic_noise_multiplier,
    gaussian_delta,
)
from fedsim.privacy.mechanisms.laplace import Laplace
from fedsim.privacy.mechanisms.privunit import PrivUnit, best_cap
from fedsim.privacy.noise import Stream

ALL = [Gaussian, Laplace, PrivUnit]
ADDITIVE = [Gaussian, Laplace]
HOSTILE = [
    [float("nan"), 1, 0],
    [float("inf"), 1, 0],
    [-float("inf"), float("inf"), float("nan")],
    [1e30, -1e30, 1e30],
    [3e38, 3e38, 3e38],
    [0, 0, 0],
    [1e-45, 0, 0],
    [0.3, -0.2, 0.1],
]


def seeded(client=0, seed=5):
    return Stream.seeded(seed, "mechanisms", client=client)


def many(mechanism, vector, count):
    """`count` randomized copies of a vector: float64 [count, model]."""
    rows = torch.tensor(vector, dtype=torch.float64).repeat(count, 1)
    return mechanism.randomize(rows, [seeded()] * count)


# Contract


@pytest.mark.parametrize("kind", ALL)
def test_hostile_updates_come_out_finite(kind):
    for dtype in (torch.float32, torch.float64):
        rows = torch.tensor(HOSTILE, dtype=dtype)
        sent = kind(clipping_norm=0.5).randomize(rows, [seeded(i) for i in range(len(rows))])
        assert sent.shape == rows.shape
        assert sent.dtype == dtype
        assert bool(sent.isfinite().all())


@pytest.mark.parametrize("kind", ADDITIVE)
def test_no_two_updates_are_further_apart_than_the_sensitivity(kind):
    """With the same noise, what is sent differs by what was clipped."""
    order = 2 if kind is Gaussian else 1
    extreme = torch.tensor([*HOSTILE, [1e300] * 3, [-1e300] * 3], dtype=torch.float64)
    sent = torch.cat([kind(clipping_norm=0.5).randomize(row[None], [seeded()]) for row in extreme])
    apart = torch.linalg.vector_norm(sent[:, None] - sent[None], ord=order, dim=2)
    assert float(apart.max()) <= 2 * 0.5 * (1 + 1e-12)
    assert float(apart.max()) > 0.999
    assert float(apart[0, 5]) == 0  # not a number counts as zero


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
    st.floats(1e-3, 1e3),
    st.sampled_from([1, 2]),
)
def test_clipped_vectors_are_inside_the_ball(values, clipping_norm, order):
    vector = torch.tensor(values, dtype=torch.float64)
    inside = clipped(vector, clipping_norm, order=order)
    norm = float(torch.linalg.vector_norm(inside, ord=order))
    assert norm <= clipping_norm * (1 + 1e-12)
    if bool(vector.isfinite().all()) and sum(map(abs, values)) < clipping_norm:
        assert torch.equal(inside, vector)


@pytest.mark.parametrize("kind", ALL)
def test_every_row_is_randomized_by_itself(kind):
    rows = torch.randn(3, 700, generator=torch.Generator().manual_seed(0))
    block = kind().randomize(rows, [seeded(i) for i in range(3)])
    alone = [kind().randomize(row[None], [seeded(i)]) for i, row in enumerate(rows)]
    assert torch.equal(block, torch.cat(alone))
    assert not torch.equal(*kind().randomize(rows[:1].repeat(2, 1), [seeded(0), seeded(1)]))
    with pytest.raises(ValueError, match="argument"):
        kind().randomize(rows, [seeded()])


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("vector", [[0.3, -0.4, 0.0], [3.0, 4.0, 0.0], [0.0] * 3, [math.nan] * 3])
def test_the_mean_is_the_clipped_update(kind, vector):
    mechanism = kind(epsilon=6.0)
    sent = many(mechanism, vector, 1000)
    order = 1 if kind is Laplace else 2
    expected = clipped(torch.tensor(vector, dtype=torch.float64), 1.0, order=order)
    error = (sent.mean(dim=0) - expected) / (sent.std(dim=0) / 1000**0.5)
    assert float(error.abs().max()) < 3.5


@pytest.mark.parametrize("kind", ALL)
def test_more_epsilon_is_less_noise_and_the_bound_scales_it(kind):
    stds = [kind(epsilon=epsilon).std for epsilon in (0.01, 0.1, 1.0, 3.0, 10.0, 50.0)]
    assert stds == sorted(stds, reverse=True)
    assert len(set(stds)) == len(stds)
    assert kind(clipping_norm=3.0).std == pytest.approx(3 * kind().std)


@pytest.mark.parametrize("kind", ALL)
def test_noise_has_the_stated_deviation_and_law(kind):
    """Across many coordinates of one update; PrivUnit's noise is normal across its direction."""
    mechanism = kind(clipping_norm=2.0, epsilon=3.0)
    vector = torch.zeros(1, 300_000, dtype=torch.float64)
    vector[0, 0] = 2.0
    sent = mechanism.randomize(vector, [seeded()])[0, 1:].numpy()
    assert sent.std() == pytest.approx(mechanism.std, rel=0.01)
    law = stats.laplace(scale=mechanism.std / 2**0.5) if kind is Laplace else stats.norm()
    scale = 1 if kind is Laplace else mechanism.std
    assert stats.kstest(sent / scale, law.cdf).pvalue > 0.01


@pytest.mark.parametrize("kind", ALL)
def test_what_is_sent_is_on_a_grid(kind):
    """Whatever the update, so that the last bits say nothing of it."""
    mechanism = kind(epsilon=6.0)
    unit = {Gaussian: 1.0, Laplace: 1.0, PrivUnit: 1 / best_cap(6.0).lean}[kind]
    sent = mechanism.randomize(
        torch.rand(4, 1000, dtype=torch.float64), [seeded(i) for i in range(4)]
    )
    steps = sent / (unit * 2.0**-38)
    assert torch.allclose(steps, steps.round(), atol=1e-3, rtol=0)


# What is claimed, against what an attacker sees


def lower_log_ratio(first, second, confidence=0.999):
    """A lower confidence bound of log(P(first) / P(second)) from booleans (Clopper-Pearson)."""
    level = 1 - (1 - confidence) / 2
    low = stats.binomtest(int(first.sum()), len(first)).proportion_ci(2 * level - 1).low
    high = stats.binomtest(int(second.sum()), len(second)).proportion_ci(2 * level - 1).high
    return math.log(low / high)


@pytest.mark.parametrize(("kind", "epsilon"), [(Laplace, 1.0), (PrivUnit, 2.0)])
def test_no_event_is_more_likely_than_epsilon_allows(kind, epsilon):
    mechanism = kind(epsilon=epsilon)
    first, second = many(mechanism, [1.0, 0, 0], 3000), many(mechanism, [-1.0, 0, 0], 3000)
    cap = best_cap(epsilon)
    worst = 1.0 if kind is Laplace else cap.threshold / cap.lean
    for at in (-2, -worst, 0, worst, 2):
        assert lower_log_ratio(first[:, 0] > at, second[:, 0] > at) <= epsilon
        assert lower_log_ratio(second[:, 0] < at, first[:, 0] < at) <= epsilon
    above = [float((sent[:, 0] >= worst - 1e-6).double().mean()) for sent in (first, second)]
    assert math.log(above[0] / above[1]) == pytest.approx(epsilon, abs=0.3)  # and it is tight


def test_gaussian_delta_is_what_an_attacker_can_reach():
    mechanism = Gaussian(epsilon=1.0, delta=0.05)
    first, second = many(mechanism, [0.6, 0.8], 5000), many(mechanism, [-0.6, -0.8], 5000)
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    # The best event: log of the likelihood ratio above epsilon.
    at = mechanism.epsilon * mechanism.std**2 / 2
    reached = (first @ direction > at).double().mean() - math.e * (
        second @ direction > at
    ).double().mean()
    assert float(reached) == pytest.approx(0.05, abs=0.03)


# Numbers from elsewhere


@pytest.mark.parametrize(
    ("mu", "epsilon"),
    [(0.1, 0.340669), (0.5, 1.993091), (1, 4.377178), (2, 9.997256), (5, 33.103732)],
)
def test_gaussian_calibration_at_delta_1e_5(mu, epsilon):
    """Closed form of mu-GDP (Dong, Roth and Su 2022, corollary 2.13) and dp-accounting's PLD."""
    assert gaussian_delta(1 / mu, epsilon) == pytest.approx(1e-5, rel=1e-4)
    assert analytic_noise_multiplier(epsilon, 1e-5) == pytest.approx(1 / mu, rel=1e-5)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(1e-4, 1e-6), (1.0, 1e-12), (3.0, 0.3), (200, 1e-9)]
)
def test_gaussian_delta_is_the_integral_of_its_definition(epsilon, delta):
    """The integral of max(0, p - e^epsilon q) for two normals one sensitivity apart."""
    multiplier = analytic_noise_multiplier(epsilon, delta)
    assert gaussian_delta(multiplier, epsilon) <= delta
    assert gaussian_delta(multiplier * 0.999, epsilon) > delta
    start = epsilon * multiplier + 1 / (2 * multiplier)  # in deviations from the further mean

    def excess(x):
        return stats.norm.pdf(x - 1 / multiplier) * -np.expm1(-(x - start) / multiplier)

    integral, _ = integrate.quad(excess, start, start + 12, epsabs=0, limit=200)
    assert integral == pytest.approx(delta, rel=1e-5)


def test_gaussian_noise_refuses_what_no_noise_can_give():
    for epsilon, delta in [(0, 1e-5), (1, 0), (1, 1), (math.nan, 1e-5), (math.inf, 1e-5)]:
        with pytest.raises(ValueError, match="DP"):
            analytic_noise_multiplier(epsilon, delta)


def test_multipliers_are_of_the_sensitivity_which_is_derived():
    gaussian, laplace = Gaussian(3.0, noise_multiplier=0.5), Laplace(3.0, noise_multiplier=0.5)
    assert gaussian.std == 0.5 * 2 * 3
    assert laplace.scale == 0.5 * 2 * 3
    assert gaussian.release() == Release("gaussian", 0.5)
    assert laplace.release() == Release("laplace", 0.5)
    assert Laplace(epsilon=4.0).release() == Release("laplace", 0.25)
    assert PrivUnit(epsilon=4.0).release() == Release("pure", epsilon=4.0)
    assert gaussian_delta(Gaussian().release().noise_multiplier, 8.0) == pytest.approx(1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 4.0, 16.0, 100.0, 500.0])
def test_a_cap_spends_epsilon_and_leans_as_far_as_it_can(epsilon):
    cap = best_cap(epsilon)
    logit = math.log(cap.probability / (1 - cap.probability))
    share = stats.norm.sf(cap.threshold)
    assert share == pytest.approx(cap.share, rel=1e-9)
    # The two densities against the normal law: p / q above, (1 - p) / (1 - q) below.
    assert logit - math.log(cap.share / (1 - cap.share)) == pytest.approx(epsilon, rel=1e-9)
    for other in np.linspace(0.02, 0.98, 25) * epsilon:
        p = 1 / (1 + math.exp(-other))
        q = 1 / (1 + math.exp(epsilon - other))
        lean = stats.norm.pdf(stats.norm.isf(q)) * (p / q - (1 - p) / (1 - q))
        assert lean <= cap.lean * (1 + 1e-9)


def test_privunit_errs_as_much_as_its_moments_say():
    """The mean squared error is C^2 (d - 1 + E[along^2]) / lean^2 - r^2."""
    cap, dimension = best_cap(4.0), 20
    vector = [0.6] + [0.0] * (dimension - 1)
    sent = many(PrivUnit(epsilon=4.0), vector, 2000)
    error = (sent - torch.tensor(vector, dtype=torch.float64)).square().sum(dim=1).mean()
    expected = (dimension - 1 + cap.second_moment) / cap.lean**2 - 0.36
    assert float(error) == pytest.approx(expected, rel=0.04)
    along = integrate.quad(lambda x: x**2 * stats.norm.pdf(x), cap.threshold, 12)[0] / cap.share
    below = (1 - along * cap.share) / (1 - cap.share)
    moment = cap.probability * along + (1 - cap.probability) * below
    assert cap.second_moment == pytest.approx(moment, rel=1e-6)


def test_privunit_disturbs_far_less_than_gaussian_noise_of_one_release():
    """At epsilon 8, and without a delta: about a third of the standard deviation."""
    assert Gaussian(epsilon=8.0).std / PrivUnit(epsilon=8.0).std == pytest.approx(3.29, abs=0.01)
