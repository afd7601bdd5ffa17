import math

import dp_accounting
import pytest
import torch
from dp_accounting import rdp
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.adaptive import (
    AdaptiveClipping,
    total_noise_multiplier,
    update_noise_multiplier,
)
from fedsim.privacy.noise import Stream

COHORT = 100


def trace(adaptive, rounds=200, spread=0.3, cohort=COHORT):
    """The norms of rounds in which updates' norms are log-normal with median 1."""
    generator = torch.Generator().manual_seed(3)
    stream = Stream.seeded(3, "bits")
    state, norms = adaptive.init(), []
    for _ in range(rounds):
        drawn = (torch.randn(cohort, generator=generator) * spread).exp()
        released = adaptive.released(adaptive.votes(drawn, state), stream, cohort)
        state = adaptive.step(state, released, cohort)
        norms.append(state["clipping_norm"])
    return norms


# Numbers from elsewhere


@pytest.mark.parametrize(
    ("start", "rounds"), [(0.001, 69), (0.1, 24), (1.0, 1), (3.0, 12), (100.0, 47)]
)
def test_it_finds_the_median_from_anywhere(start, rounds):
    """The rounds that the correct rule was measured to take; the wrong sign diverges."""
    norms = trace(AdaptiveClipping(clipping_norm=start))
    reached = next(i for i, norm in enumerate(norms, 1) if abs(norm - 1) < 0.15)
    assert reached <= 100
    assert abs(reached - rounds) <= 4
    settled = norms[reached + 15 :]
    assert max(abs(norm - 1) for norm in settled) < 0.1


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_it_finds_other_quantiles(quantile):
    norms = trace(AdaptiveClipping(1.0, target_quantile=quantile), rounds=300)
    true = math.exp(0.3 * math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * quantile - 1))))
    mean = sum(norms[100:]) / 200
    assert mean == pytest.approx(true, rel=0.1)


def epsilon(noise_multiplier):
    """RDP of dp-accounting: q = 0.01, 1000 rounds, delta = 1e-5."""
    step = dp_accounting.PoissonSampledDpEvent(
        0.01, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    accountant = rdp.RdpAccountant()
    return accountant.compose(step, 1000).get_epsilon(1e-5)


def test_what_is_accounted_is_the_noise_on_both():
    """Noise multiplier 1 with bits of sigma 1: 2.101; accounting for z_delta would say 1.556."""
    on_updates = update_noise_multiplier(1.0, 1.0)
    assert epsilon(total_noise_multiplier(on_updates, 1.0)) == pytest.approx(2.101, abs=1e-3)
    assert epsilon(on_updates) == pytest.approx(1.556, abs=1e-3)


# Properties


@given(st.floats(0.01, 50), st.floats(0.01, 50), st.sampled_from(["zero-out", "replace-one"]))
def test_noise_is_split_and_put_together_again(noise_multiplier, excess, adjacency):
    bits = noise_multiplier + excess
    sigma = bits if adjacency == "replace-one" else bits / 2
    on_updates = update_noise_multiplier(noise_multiplier, sigma, adjacency=adjacency)
    assert on_updates >= noise_multiplier
    assert on_updates**-2 + bits**-2 == pytest.approx(noise_multiplier**-2, rel=1e-9)
    total = total_noise_multiplier(on_updates, sigma, adjacency=adjacency)
    assert total == pytest.approx(noise_multiplier, rel=1e-9)


def test_where_bits_have_too_little_noise_that_is_said():
    for noise_multiplier, sigma in [(2.0, 1.0), (1.0, 0.1), (1.0, 0.0), (-1.0, 1.0)]:
        with pytest.raises(ValueError, match="bit_noise"):
            update_noise_multiplier(noise_multiplier, sigma)
    with pytest.raises(ValueError, match="bit_noise"):
        update_noise_multiplier(1.0, math.nan)
    assert update_noise_multiplier(0.0, 1.0) == 0
    assert total_noise_multiplier(0.0, 1.0) == 0
    assert total_noise_multiplier(1.0, 0.0) == 0
    assert total_noise_multiplier(1.0, math.inf) == 1


def test_a_client_moves_the_sum_of_votes_by_half_whatever_it_sends():
    adaptive = AdaptiveClipping(1.0)
    norms = torch.tensor([0.0, 1.0, 1.0001, math.inf, math.nan, 1e30])
    assert adaptive.votes(norms, adaptive.init()).tolist() == [0.5, 0.5, -0.5, -0.5, 0, -0.5]
    assert adaptive.votes(torch.empty(0), adaptive.init()).tolist() == []


def test_too_many_within_the_norm_shrink_it_and_too_few_let_it_grow():
    adaptive = AdaptiveClipping(2.0, target_quantile=0.5, lr=0.2)
    state = adaptive.init()
    norms = [
        adaptive.step(state, half * COHORT, COHORT)["clipping_norm"] for half in (0.5, 0, -0.5)
    ]
    assert norms == pytest.approx([2 * math.exp(-0.1), 2.0, 2 * math.exp(0.1)])
    assert state == {"clipping_norm": 2.0}


def test_noise_on_the_votes_has_its_deviation_and_an_empty_round_is_noise_only():
    stream = Stream.seeded(1, "votes")
    for adaptive, sigma in [(AdaptiveClipping(), 5.0), (AdaptiveClipping(bit_noise=2.0), 2.0)]:
        assert adaptive.sigma(COHORT) == sigma
        drawn = [adaptive.released(torch.empty(0), stream, COHORT) for _ in range(3000)]
        assert torch.tensor(drawn).std() == pytest.approx(sigma, rel=0.05)
        assert torch.tensor(drawn).mean() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("start", [0.001, 1.0, 100.0])
def test_targets_of_none_and_all_stay_finite(target, start):
    norms = trace(AdaptiveClipping(start, target_quantile=target), rounds=500)
    if target:  # nearly all within, and no runaway
        assert 1.3 < norms[-1] < max(10, 2 * start)
    else:
        assert 1e-4 < norms[-1] < 0.8
    assert all(0 < norm < math.inf for norm in norms)


def test_the_norm_stays_between_its_limits():
    adaptive = AdaptiveClipping(5.0, lr=100.0, most=7.0)
    assert adaptive.step(adaptive.init(), -50.0, COHORT) == {"clipping_norm": 7.0}
    assert adaptive.step(adaptive.init(), 50.0, COHORT) == {"clipping_norm": 1e-12}
    assert AdaptiveClipping(5.0, most=2.0).init() == {"clipping_norm": 2.0}
