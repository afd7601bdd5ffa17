import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.privacy import rotation
from fedsim.privacy.accounting import account
from fedsim.privacy.distributed import (
    DEVIATIONS,
    Distributed,
    TooFewSurvivorsError,
    centred,
    scale_for,
)
from fedsim.privacy.events import DISCRETE, Sampling
from fedsim.privacy.noise import Stream
from fedsim.privacy.rounding import squared_bound

SEED = 9


def parts(**changed):
    base = Distributed(
        mechanism="skellam",
        noise_multiplier=1.0,
        clipping_norm=0.5,
        dimension=1000,
        bits=20,
        most=30,
        least=21,
    )
    return replace(base, **changed)


def updates(count, dimension, norm, seed=0):
    drawn = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))
    return norm * drawn / drawn.norm(dim=1, keepdim=True)


def streams(count, round=1):
    return [Stream.seeded(SEED, "noise", round=round, client=i) for i in range(count)]


def summed(own, vectors, round=1):
    """One round: what the server decodes of the sum in the ring."""
    signs = rotation.signs(SEED, round, own.dimension)
    sent = own.encode(vectors, streams(len(vectors), round), signs)
    assert int(sent.min()) >= 0
    assert int(sent.max()) < 2**own.bits
    total = sent.sum(dim=0) % 2**own.bits
    server = Stream.seeded(SEED, "server", round=round)
    return own.decode(total, len(vectors), signs, server)


@pytest.mark.parametrize("mechanism", DISCRETE)
@pytest.mark.parametrize("survivors", [21, 30])
def test_the_sum_is_that_of_clipped_updates_plus_noise_of_the_survivors(mechanism, survivors):
    """Unbiased, with the standard deviation z c sqrt(survivors / least), and normal to the eye."""
    own = parts(mechanism=mechanism, dimension=4000)
    vectors = updates(survivors, 4000, 2.0)  # four times too long
    expected = vectors.double().sum(dim=0) * 0.25
    errors = torch.cat([summed(own, vectors, round) - expected for round in range(1, 9)]).numpy()
    std = own.noise_multiplier * own.clipping_norm * math.sqrt(survivors / 21)
    assert errors.std() == pytest.approx(std, rel=0.015)
    assert abs(errors.mean()) < 4 * std / math.sqrt(len(errors))
    assert stats.kstest(errors / errors.std(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("mechanism", DISCRETE)
def test_the_error_is_the_gaussians(mechanism):
    """Mean squared error within 3 % of continuous noise of the same multiplier, at 20 bits."""
    own = parts(mechanism=mechanism, dimension=2**14, most=21)
    vectors = updates(21, 2**14, 0.5)
    expected = vectors.double().sum(dim=0)
    squares = [
        float((summed(own, vectors, round) - expected).square().mean()) for round in range(1, 11)
    ]
    assert np.mean(squares) == pytest.approx((1.0 * 0.5) ** 2, rel=0.03)


def test_nothing_wraps_around_in_a_hundred_rounds():
    """All clients send the same longest update, of one coordinate: the worst sum there is."""
    own = parts(dimension=500, bits=12, most=20, least=20, noise_multiplier=0.5)
    vectors = torch.zeros(20, 500)
    vectors[:, 3] = 0.5
    expected = torch.zeros(500, dtype=torch.float64)
    expected[3] = 10.0
    limit = 8 * 0.5 * 0.5 + 4 * own.clipping_norm * math.sqrt(20) / own.scale
    ring = 2**own.bits * own.clipping_norm / own.scale
    assert ring > 3 * limit  # so that a wrap of any coordinate would be seen
    for round in range(1, 101):
        signs = rotation.signs(SEED, round, 500)
        sent = own.encode(vectors, streams(20, round), signs)
        exact = centred(sent, 12).sum(dim=0)
        assert torch.equal(centred(exact, 12), exact)
        error = own.decode(sent.sum(dim=0), 20, signs) - expected
        assert float(error.abs().max()) < limit


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from([10, 12, 16, 20, 24, 32]),
    st.integers(2, 40),
    st.floats(0.1, 4),
    st.floats(1e-3, 1e3),
)
def test_one_client_moves_the_sum_by_no_more_than_is_accounted(dimension, bits, most, z, norm):
    """Whatever it sends: with its noise taken off again, integers of a bounded norm are left."""
    try:
        own = parts(
            dimension=dimension, bits=bits, most=most, least=most, noise_multiplier=z,
            clipping_norm=norm,
        )  # fmt: skip
    except ValueError as error:
        assert "bits" in str(error)  # noqa: PT017
        return
    release = own.release(Sampling())
    bound = squared_bound(release.lattice.scale, release.lattice.dimension)
    signs = rotation.signs(SEED, 1, dimension)
    for vector in (
        updates(1, dimension, 1e6),
        torch.zeros(1, dimension),
        updates(1, dimension, norm),
    ):
        whole = _without_noise(own).encode(vector, streams(1), signs)
        assert int(centred(whole, bits).square().sum()) <= bound


def _without_noise(own):
    class Silent(type(own)):
        def noise(self, count, stream):
            return torch.zeros(count, dtype=torch.int64)

    return Silent(**{name: getattr(own, name) for name in own.__dataclass_fields__})


def test_a_block_of_clients_sends_what_each_would_send_alone():
    own, vectors = parts(), updates(5, 1000, 0.7)
    signs = rotation.signs(SEED, 3, 1000)
    block = own.encode(vectors, streams(5), signs)
    alone = [own.encode(vectors[i : i + 1], [streams(5)[i]], signs) for i in range(5)]
    assert torch.equal(block, torch.cat(alone))
    assert not torch.equal(block[0], own.encode(vectors[:1], streams(5)[1:2], signs)[0])


@pytest.mark.parametrize("mechanism", DISCRETE)
def test_a_single_message_is_not_the_update(mechanism):
    """Its noise alone: what a client sends differs from what it rounded by its own part."""
    own = parts(mechanism=mechanism, dimension=2**14)
    vectors = updates(1, 2**14, 0.5)
    signs = rotation.signs(SEED, 1, 2**14)
    sent = centred(own.encode(vectors, streams(1), signs), 20)
    clean = rotation.rotate(vectors, signs) * own.scale / own.clipping_norm
    error = (sent - clean).flatten()
    assert float(error.var()) == pytest.approx(own.local_variance + 1 / 6, rel=0.05)


# How much noise, and who is counted on


def test_noise_is_calibrated_to_the_fewest_survivors_less_colluders():
    own = parts(least=21, colluders=3)
    assert own.shares == 18
    assert own.local_variance * 18 == pytest.approx((own.noise_multiplier * own.scale) ** 2)
    assert own.release(Sampling()).lattice.terms == 18
    assert own.release(Sampling()).noise_multiplier == 1.0


def test_with_fewer_survivors_there_is_neither_a_sum_nor_an_epsilon():
    own = parts()
    signs = rotation.signs(SEED, 1, 1000)
    sent = own.encode(updates(20, 1000, 0.5), streams(20), signs)
    with pytest.raises(TooFewSurvivorsError, match="no epsilon"):
        own.decode(sent.sum(dim=0), 20, signs)
    with pytest.raises(TooFewSurvivorsError, match="no epsilon"):
        own.against_server(20)
    own.against_server(21)
    with pytest.raises(ValueError, match="at most 30"):
        own.decode(sent.sum(dim=0), 31, signs)


def test_against_the_server_counts_who_survived():
    own = parts(colluders=3)
    assert own.against_server(21).noise_multiplier == pytest.approx(1.0)
    assert own.against_server(30).noise_multiplier == pytest.approx(math.sqrt(27 / 18))
    few, many = (account([own.against_server(n)], "zero-out").epsilon(1e-5) for n in (21, 30))
    assert many < few


@pytest.mark.parametrize("mechanism", DISCRETE)
@pytest.mark.parametrize("survivors", [5, 20])
def test_the_server_completes_the_noise_where_the_cohorts_size_is_chance(mechanism, survivors):
    """What is released has the noise of a largest cohort, however many were in it."""
    own = parts(
        mechanism=mechanism, dimension=2**14, most=25, least=3, colluders=2, is_completed=True
    )
    assert own.shares == 23
    vectors = torch.zeros(survivors, 2**14)
    errors = torch.cat([summed(own, vectors, round) for round in (1, 2, 3)])
    std = own.noise_multiplier * own.clipping_norm * math.sqrt(25 / 23)
    assert float(errors.std()) == pytest.approx(std, rel=0.02)
    seen = own.against_server(survivors)
    assert seen.noise_multiplier == pytest.approx(math.sqrt((survivors - 2) / 23))
    with pytest.raises(TooFewSurvivorsError):
        replace(own, colluders=4).against_server(4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"least": 0}, "survivors"),
        ({"least": 31}, "survivors"),
        ({"colluders": -1}, "colluders"),
        ({"colluders": 21}, "colluders"),
        ({"bits": 8, "most": 10_000, "least": 10_000}, "bits"),
        ({"bits": 8, "dimension": 1, "most": 1000}, "bits"),
        ({"bits": 8, "noise_multiplier": 1e3}, "bits"),
    ],
)
def test_what_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        parts(**changed)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused(value):
    own = parts(dimension=4)
    bad = torch.tensor([[value, 0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="not finite"):
        own.encode(bad, streams(1), rotation.signs(SEED, 1, 4))


def test_the_scale_is_the_one_of_the_paper():
    """google-research/federated, `heuristic_scale_factor`, with k = 6: written out once more."""
    n, c, z, d, bits, t = 50, 0.5, 1.0, 1024, 16, 40
    local = z * c / math.sqrt(t)
    expected = math.sqrt(2.0 ** (2 * bits) - n * 36) / (
        12 * math.sqrt(c**2 * n**2 / d + n * local**2)
    )
    found = scale_for(noise_multiplier=z, dimension=d, bits=bits, most=n, shares=t)
    assert found / c == pytest.approx(expected)
    assert DEVIATIONS == 6
    assert scale_for(noise_multiplier=z, dimension=d, bits=32, most=n, shares=t) == 10_000
    wide = scale_for(noise_multiplier=z, dimension=2**20, bits=32, most=n, shares=t)
    assert wide**2 * 1e-4 == pytest.approx(2**18)
    loud = scale_for(noise_multiplier=90.0, dimension=2**20, bits=32, most=n, shares=t)
    assert loud * 90 / math.sqrt(t) == pytest.approx(2**14)


# A canary


@pytest.mark.parametrize("mechanism", DISCRETE)
def test_no_attacker_finds_a_canary_more_often_than_epsilon_allows(mechanism):
    """Who knows all else projects the sum on the canary; its lower bound stays below epsilon.

    Clopper-Pearson at the threshold fixed beforehand, as `(1 - FNR - delta) / FPR` has it
    (Jagielski et al. 2020); 400 rounds with the canary and 400 without.
    """
    own = parts(mechanism=mechanism, dimension=256, bits=16, most=6, least=6, noise_multiplier=0.8)
    canary, delta = updates(1, 256, 0.5, seed=3), 1e-3
    silence = torch.zeros(6, 256)
    loud = silence.clone()
    loud[0] = canary[0]
    direction = canary[0].double() / 0.5
    scores = {
        name: np.array([float(summed(own, v, r) @ direction) for r in range(base, base + 400)])
        for name, v, base in (("in", loud, 1), ("out", silence, 1001))
    }
    assert scores["in"].mean() == pytest.approx(0.5, abs=0.1)
    hits, alarms = (int((scores[name] > 0.5).sum()) for name in ("in", "out"))
    found = stats.binomtest(hits, 400).proportion_ci(0.95).low
    wrong = stats.binomtest(alarms, 400).proportion_ci(0.95).high
    lower = math.log((found - delta) / wrong)
    epsilon = account([own.release(Sampling())], "zero-out").epsilon(delta)
    assert 0 < lower < epsilon
