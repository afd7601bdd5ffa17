import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedsim import exact
from fedsim.core import Update
from fedsim.exact import InvalidUpdateError
from fedsim.privacy import central
from fedsim.privacy.noise import Stream

DRAWS = 10_000


def cohorts(kind, population, cohort, rounds, *, seed=0, is_secret=False):
    return [
        central.draw(kind, population, cohort, r + 1, seed=seed, is_secret=is_secret)
        for r in range(rounds)
    ]


def table(drawn, population):
    there = np.zeros((len(drawn), population), dtype=bool)
    for row, ids in zip(there, drawn, strict=True):
        row[ids] = True
    return there


def size_p(there, rate):
    """Chi-square of cohort sizes against the binomial law, tails pooled."""
    population, sizes = there.shape[1], there.sum(axis=1)
    expected = stats.binom.pmf(np.arange(population + 1), population, rate) * len(there)
    counts = np.bincount(sizes, minlength=population + 1).astype(float)
    low, high = np.flatnonzero(expected >= 5)[[0, -1]]
    pooled = [
        np.concatenate([[c[: low + 1].sum()], c[low + 1 : high], [c[high:].sum()]])
        for c in (counts, expected)
    ]
    return stats.chisquare(pooled[0], pooled[1] * pooled[0].sum() / pooled[1].sum()).pvalue


def pairs_p(there, rate):
    """Chi-square of how often two clients are in together, over pairs that share nobody."""
    first, second = there[:, 0::2], there[:, 1::2]
    observed = np.array([(first & second).sum(), (first ^ second).sum(), (~first & ~second).sum()])
    law = np.array([rate**2, 2 * rate * (1 - rate), (1 - rate) ** 2])
    return stats.chisquare(observed, law * observed.sum()).pvalue


@pytest.mark.parametrize("is_secret", [False, True], ids=["seeded", "secret"])
def test_poisson_cohorts_are_of_independent_coins(is_secret):
    there = table(cohorts("poisson", 20, 6, DRAWS, is_secret=is_secret), 20)
    assert size_p(there, 0.3) > 0.001
    assert pairs_p(there, 0.3) > 0.001
    assert stats.chisquare(there.sum(axis=0)).pvalue > 0.001  # nobody is preferred


def test_a_sampler_of_fixed_size_does_not_pass_for_poisson():
    there = table(cohorts("fixed", 20, 6, DRAWS), 20)
    assert set(there.sum(axis=1)) == {6}
    assert size_p(there, 0.3) < 1e-9
    assert pairs_p(there, 0.3) < 1e-9
    assert stats.chisquare(there.sum(axis=0)).pvalue > 0.001


def test_truncated_cohorts_are_poisson_up_to_their_ceiling_and_nobody_is_preferred():
    most = central.sampling_of("truncated", 400, 4).most
    assert most == 4 + 10
    drawn = cohorts("truncated", 400, 4, DRAWS)
    sizes = np.array([len(ids) for ids in drawn])
    assert sizes.max() <= most
    there = table(drawn, 400)
    assert stats.chisquare(there.sum(axis=0)).pvalue > 0.001
    below = stats.binom.cdf(np.arange(most), 400, 0.01)
    for size in range(2, 8):
        assert abs((sizes <= size).mean() - below[size]) < 4 * math.sqrt(0.25 / DRAWS)


def test_the_ceiling_keeps_a_uniform_choice(monkeypatch):
    monkeypatch.setattr(central, "_SPREAD", -1.0)  # so that it is met in most rounds
    drawn = cohorts("truncated", 30, 9, 4000)
    assert central.sampling_of("truncated", 30, 9).most == 6
    assert max(map(len, drawn)) == 6
    assert stats.chisquare(table(drawn, 30).sum(axis=0)).pvalue > 0.001


def test_seeded_cohorts_repeat_and_secret_ones_do_not():
    for kind in ("truncated", "poisson", "fixed"):
        first, again = (cohorts(kind, 500, 50, 3, seed=7) for _ in range(2))
        other = cohorts(kind, 500, 50, 3, seed=8)
        secret = [cohorts(kind, 500, 50, 3, seed=7, is_secret=True) for _ in range(2)]
        assert all(map(np.array_equal, first, again))
        assert not all(map(np.array_equal, first, other))
        assert not all(map(np.array_equal, *secret))
        assert not all(map(np.array_equal, first, secret[0]))
        assert all(np.all(np.diff(ids) > 0) for ids in first)


@pytest.mark.parametrize(("population", "cohort", "rounds"), [(10, 3, 20), (12, 4, 7), (7, 7, 5)])
def test_clients_in_turn_are_in_as_often_as_is_accounted(population, cohort, rounds):
    there = table(cohorts("cyclic", population, cohort, rounds), population)
    most = central.participations("cyclic", population, cohort, rounds)
    assert there.sum(axis=0).max() <= most <= rounds
    assert set(there.sum(axis=1)) == {cohort}
    if cohort < population:
        assert most <= there.sum(axis=0).max() + 1


def test_everybody_is_no_sample():
    assert central.sampling_of("truncated", 10, 10).kind == "all"
    assert central.draw("poisson", 5, 5, 1, seed=0, is_secret=True).tolist() == [0, 1, 2, 3, 4]


def form(dimension=1000, clipping_norm=0.5, noise_multiplier=1.0, most=20):
    return central.number_format(
        dimension, clipping_norm=clipping_norm, noise_multiplier=noise_multiplier, most=most
    )


def test_clipped_updates_enter_the_sum_and_longer_ones_do_not():
    own = form()
    direction = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    clip = central.clip(0.5)
    for size in (1e-3, 0.4999, 0.5, 0.51, 1.0, 1e6, 1e18):
        vector = clip.encode((size * direction / direction.norm()).unsqueeze(0))[0]
        total = exact.encode(Update(vector, 1.0), own)
        norm = float(exact.decode(total, own).vector.norm())
        assert norm <= 0.5
        assert norm == pytest.approx(min(size, 0.5 * (1 - 2**-10)), rel=1e-5)
    with pytest.raises(InvalidUpdateError, match="L2 norm"):
        exact.encode(Update(0.5001 * direction / direction.norm(), 1.0), own)
    with pytest.raises(InvalidUpdateError, match="weight"):
        exact.encode(Update(torch.zeros(1000), 1.5), own)
    with pytest.raises(InvalidUpdateError, match="lane"):
        exact.encode(Update(torch.zeros(1000), 1.0, lanes={"more": torch.ones(3)}), own)


@pytest.mark.parametrize("noise_multiplier", [1e-3, 1.0, 300.0])
def test_released_noise_is_normal_and_as_large_as_accounted(noise_multiplier):
    own = form(200_000, noise_multiplier=noise_multiplier)
    stream = Stream.seeded(3, "noise")
    found = central.noised(exact.zero(own), own, noise_multiplier, 20, stream)
    values, scale = found.vector.numpy(), noise_multiplier * 0.5
    assert found.weight == found.count == 20
    assert np.std(values) == pytest.approx(scale, rel=0.01)
    assert stats.kstest(values / scale, "norm").pvalue > 0.01


def test_noise_and_denominator_do_not_depend_on_who_answered():
    own, vector = form(50), torch.full((50,), 0.01)
    few = exact.add([exact.encode(Update(vector, 1.0), own)])
    many = exact.add([exact.encode(Update(vector, 1.0), own) for _ in range(15)])
    noise = central.noised(exact.zero(own), own, 2.0, 20, Stream.seeded(1, "noise"))
    for total, count in ((few, 1), (many, 15)):
        found = central.noised(total, own, 2.0, 20, Stream.seeded(1, "noise"))
        assert found.weight == noise.weight == 20.0
        torch.testing.assert_close(found.vector - noise.vector, (count * vector).double())
        assert not torch.equal(found.mean(), noise.mean())


def test_sums_have_room_for_the_largest_noise():
    for noise_multiplier, most in ((1e-6, 1), (1.0, 1), (1e4, 2), (1.0, 10**6)):
        own = form(4, 1.0, noise_multiplier, most)
        reach = most * 1.0 + 13.3 * noise_multiplier
        assert reach * 2.0**own.fraction_bits < 2.0**63
        assert own.fraction_bits > 30


@pytest.mark.parametrize("cap", [None, 10.0, 1000.0])
def test_no_client_counts_for_more_than_one(cap):
    assert all(0 < central.weight(n, cap) <= 1 for n in (1, 5, 10, 11, 10**9))
