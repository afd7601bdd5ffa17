"""Robust rules against the papers' definitions, written out in numpy, and against attackers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedsim import registry
from fedsim.core import RoundContext, Update
from fedsim.errors import ConfigError, RunFailedError
from fedsim.strategies.bucketing import Bucketing
from fedsim.strategies.bulyan import Bulyan, chosen
from fedsim.strategies.centered_clipping import CenteredClipping, clipped_mean
from fedsim.strategies.coordinate_median import coordinate_median
from fedsim.strategies.dnc import DnC, outliers
from fedsim.strategies.krum import Krum
from fedsim.strategies.multi_krum import MultiKrum
from fedsim.strategies.nnm import Nnm, mixed
from fedsim.strategies.rfa import geometric_median
from fedsim.strategies.trimmed_mean import TrimmedMean, trimmed_mean

ROBUST = [
    name
    for name in registry.names("strategies")
    if hasattr(registry.load("strategies", name), "aggregate") and name != "fltrust"
]
CONTEXT = RoundContext(seed=3, round=1, cohort=11)


def drawn(seed, clients=11, size=7, scale=1.0):
    return torch.from_numpy(scale * np.random.default_rng(seed).normal(size=(clients, size)))


def krum_scores(vectors, f, left):
    """The paper's: over the n - f - 2 others that are nearest."""
    found = {}
    for i in left:
        others = sorted(float(((vectors[i] - vectors[j]) ** 2).sum()) for j in left if j != i)
        found[i] = sum(others[: max(len(left) - f - 2, 1)])
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("f", [0, 1, 4])
def test_krum_takes_the_lowest_score(seed, f):
    vectors = drawn(seed)
    scores = krum_scores(vectors.numpy(), f, range(11))
    move, _ = Krum(f=f).aggregate(vectors, {}, CONTEXT)
    assert torch.equal(move, vectors[min(scores, key=scores.get)])
    ranked = sorted(scores, key=scores.get)
    for m in (1, 3, 11 - f - 2):
        move, _ = MultiKrum(f=f, m=m).aggregate(vectors, {}, CONTEXT)
        torch.testing.assert_close(move, vectors[ranked[:m]].mean(dim=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("f", [0, 1, 2])
def test_bulyan_chooses_again_after_each_choice(seed, f):
    vectors = drawn(seed).numpy()
    left, taken = list(range(11)), []
    while len(taken) < 11 - 2 * f:
        scores = krum_scores(vectors, f, left)
        taken.append(min(scores, key=scores.get))
        left.remove(taken[-1])
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    assert chosen(torch.from_numpy(squares), f) == sorted(taken)
    kept, expected = vectors[sorted(taken)], []
    for column in kept.T:
        near = sorted(column, key=lambda value: abs(value - np.median(column)))
        expected.append(np.mean(near[: len(kept) - 2 * f]))
    move, _ = Bulyan(f=f).aggregate(torch.from_numpy(vectors), {}, CONTEXT)
    np.testing.assert_allclose(move, expected, rtol=0, atol=1e-12)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(0, 5))
def test_median_and_trimmed_mean_are_numpys(seed, clients, f):
    vectors = drawn(seed, clients)
    np.testing.assert_allclose(coordinate_median(vectors), np.median(vectors.numpy(), axis=0))
    if clients > 2 * f:
        middle = np.sort(vectors.numpy(), axis=0)[f : clients - f].mean(axis=0)
        np.testing.assert_allclose(trimmed_mean(vectors, f), middle, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_median_has_the_least_sum_of_distances(seed):
    vectors = drawn(seed, size=3).numpy()

    def cost(z):
        return np.linalg.norm(vectors - z, axis=1).sum()

    best = minimize(cost, vectors.mean(axis=0), method="Nelder-Mead", tol=1e-10)
    found = geometric_median(torch.from_numpy(vectors), 1e-9, 500)
    np.testing.assert_allclose(found, best.x, rtol=0, atol=1e-5)
    one = geometric_median(torch.from_numpy(vectors), 0.1, 1)
    near = 1 / np.maximum(np.linalg.norm(vectors, axis=1), 0.1)
    np.testing.assert_allclose(one, near @ vectors / near.sum(), rtol=0, atol=1e-12)


def test_centered_clipping_starts_where_the_last_round_ended():
    rule = CenteredClipping(tau=0.7, iterations=2)
    centre = np.zeros(7)
    state = rule.init(torch.zeros(7, dtype=torch.float64))
    for number in range(1, 4):
        vectors = drawn(number)
        for _ in range(2):
            away = vectors.numpy() - centre
            shrink = np.minimum(1, 0.7 / np.linalg.norm(away, axis=1))
            centre = centre + (away * shrink[:, None]).mean(axis=0)
        updates = [Update(row.float(), 1.0) for row in vectors]
        before = state["model"]
        state = rule.step(state, updates, RoundContext(0, number, 11))
        np.testing.assert_allclose(state["v"], centre, rtol=0, atol=1e-6)
        torch.testing.assert_close(state["model"], before + state["v"])


@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_centered_clipping_moves_by_tau_at_most(seed, tau):
    centre = drawn(seed + 1, 1)[0]
    moved = clipped_mean(drawn(seed, scale=1e6), centre, CenteredClipping(tau=tau, iterations=1))
    assert (moved - centre).norm() <= tau * (1 + 1e-12)


def test_a_vector_at_the_centre_stays_there():
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    moved = clipped_mean(zeros, zeros[0], CenteredClipping())
    assert torch.equal(moved, zeros[0])


@pytest.mark.parametrize("shape", [(5, 30), (20, 4)])
def test_dncs_outliers_are_projections_on_the_top_right_singular_vector(shape):
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    centred = vectors.numpy() - vectors.numpy().mean(axis=0)
    _, _, right = np.linalg.svd(centred)
    np.testing.assert_allclose(outliers(vectors), (centred @ right[0]) ** 2, atol=1e-9)


def test_dnc_leaves_out_who_stands_apart():
    vectors = drawn(0, clients=12, size=50, scale=0.1)
    vectors[[2, 7]] += 3.0
    honest = [i for i in range(12) if i not in (2, 7)]
    move, _ = DnC(f=2, coordinates=20).aggregate(vectors, {}, CONTEXT)
    torch.testing.assert_close(move, vectors[honest].mean(dim=0))


@pytest.mark.parametrize(
    ("c", "f", "least"), [(1.1, 10, 3 * 11 + 1), (0.5, 3, 7), (1e307, 30, 3 * 30 * 10**307 + 1)]
)
def test_dnc_needs_more_clients_than_it_leaves_out(c, f, least):
    # In floats 1.1 * 10 is above 11, and 1e307 * 30 infinity.
    assert DnC(f=f, c=c, iterations=3).least() == least


def test_nnm_mixes_with_the_nearest():
    vectors = drawn(4).numpy()
    for row, found in zip(vectors, mixed(torch.from_numpy(vectors), 3), strict=True):
        near = sorted(vectors, key=lambda other: float(((other - row) ** 2).sum()))[:8]
        np.testing.assert_allclose(found, np.mean(near, axis=0), rtol=0, atol=1e-12)
    move, _ = Nnm(f=3, options={"f": 2}).aggregate(torch.from_numpy(vectors), {}, CONTEXT)
    torch.testing.assert_close(move, trimmed_mean(mixed(torch.from_numpy(vectors), 3), 2))


def test_buckets_hold_every_client_once():
    vectors = torch.eye(11, dtype=torch.float64)
    rule = Bucketing(s=3, rule="trimmed-mean", options={"f": 0})
    drawn = torch.from_numpy(CONTEXT.rng("bucketing").permutation(11))
    means = [vectors[drawn[i : i + 3]].mean(dim=0) for i in (0, 3, 6, 9)]
    move, _ = rule.aggregate(vectors, {}, CONTEXT)
    torch.testing.assert_close(move, torch.stack(means).mean(dim=0))
    other, _ = rule.aggregate(vectors, {}, RoundContext(3, 2, 11))
    assert not torch.equal(other, move)


def test_bucketing_with_centered_clipping_keeps_its_centre():
    rule = Bucketing(s=2, rule="centered-clipping", options={"tau": 0.5})
    state = rule.init(torch.zeros(7, dtype=torch.float64))
    updates = [Update(row.float(), 1.0) for row in drawn(1)]
    state = rule.step(state, updates, CONTEXT)
    assert state["v"].norm() > 0
    assert rule.lr == 1.0


@pytest.mark.parametrize("name", ROBUST)
def test_f_attackers_do_not_move_it_far(name):
    # 11 clients near one vector, two of them send anything: the move stays among the honest.
    kind = registry.load("strategies", name)
    part = {"nnm": lambda: kind(f=2, options={"f": 2})}.get(name)
    part = part() if part else kind(options={"f": 2}) if name == "bucketing" else kind(f=2)
    honest = 1.0 + drawn(0, scale=0.01)
    for attack in (1e6, -1e6, 1e-3, -30.0):
        vectors = honest.clone()
        vectors[[0, 5]] = attack
        if name == "bucketing":  # two of six buckets may be spoiled: krum wants seven
            vectors = torch.cat([vectors, 1.0 + drawn(1, scale=0.01)])
        updates = [Update(row.float(), 1.0) for row in vectors]
        state = part.init(torch.zeros(7, dtype=torch.float64))
        for number in range(1, 4):
            before = state["model"]
            state = part.step(state, updates, RoundContext(0, number, len(updates)))
        move = state["model"] - before
        radius = 25.0 if name == "centered-clipping" else 0.2  # it bounds what attackers do
        assert (move - 1.0).norm() < radius, attack


@pytest.mark.parametrize("name", ROBUST)
def test_too_few_updates_end_the_run(name):
    part = registry.load("strategies", name)()
    updates = [Update(torch.ones(3), 1.0)] * (part.least() - 1)
    with pytest.raises(RunFailedError, match=r"needs \d+ updates"):
        part.step(part.init(torch.zeros(3).double()), updates, CONTEXT)
    enough = [Update(torch.ones(3), 1.0)] * part.least()
    assert torch.isfinite(
        part.step(part.init(torch.zeros(3).double()), enough, CONTEXT)["model"]
    ).all()


def test_distances_survive_a_large_common_part():
    # The defect of x.x + y.y - 2 x.y: with weights of norm 100 and updates of 1e-3 it is noise.
    updates = drawn(0, clients=10, size=60_000, scale=1e-3 / np.sqrt(60_000))
    updates[:2] *= 10
    common = drawn(1, clients=1, size=60_000, scale=100 / np.sqrt(60_000))
    alone, _ = MultiKrum(f=2).aggregate(updates, {}, CONTEXT)
    shifted, _ = MultiKrum(f=2).aggregate(updates + common, {}, CONTEXT)
    torch.testing.assert_close(shifted - common[0], alone, rtol=0, atol=1e-12)


def test_rules_within_rules_are_checked():
    with pytest.raises(ConfigError, match="a robust rule"):
        Nnm(rule="fedavg")
    with pytest.raises(ConfigError, match=r"strategy\.options\.g"):
        Bucketing(options={"g": 1})
    with pytest.raises(ConfigError, match=r"strategy\.options\.f"):
        Bucketing(options={"f": -1})
    assert TrimmedMean(f=2).least() == 5
