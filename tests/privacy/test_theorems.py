"""Theorems that epsilon rests on, tried out on exact laws: everything enumerated and integrated."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import special

from fedsim.privacy import matrix
from fedsim.privacy._renyi import ORDERS, Renyi
from fedsim.privacy.blt import Buffered
from fedsim.privacy.events import Adjacency, Release, Sampling
from fedsim.privacy.separation import most_participations

Law = dict[float, float]  # of a sum before noise: value -> probability
GRID = np.linspace(-48.0, 48.0, 9601)  # a ratio to the power of 16 is largest far out
STEP = GRID[1] - GRID[0]


def density(law: Law, std: float) -> np.ndarray:
    """Return the logarithm of the density of the sum with Gaussian noise, on `GRID`."""
    means, chances = np.array(list(law)), np.array(list(law.values()))
    logs = np.log(chances)[:, None] - (GRID - means[:, None]) ** 2 / (2 * std**2)
    return np.asarray(special.logsumexp(logs, axis=0) - math.log(std * math.sqrt(2 * math.pi)))


def divergence(p: np.ndarray, q: np.ndarray, order: float) -> float:
    """Return the Rényi divergence of two densities on `GRID`, given as logarithms."""
    total = float(special.logsumexp(order * p + (1 - order) * q)) + math.log(STEP)
    return total / (order - 1)


def curve_of(release: Release, adjacency: Adjacency) -> np.ndarray:
    return np.asarray(Renyi(adjacency).compose(release).curve)


@pytest.mark.parametrize("rate", [0.02, 0.5])
@pytest.mark.parametrize("std", [0.8, 2.0])
def test_a_replaced_member_of_a_poisson_sample(rate: float, std: float) -> None:
    """Wang, Balle and Kasiviswanathan 2019, theorem 27, stated there for samples of a fixed size.

    Any two updates within [-1, 1] of the replaced member; others whose sum is one number or either
    of two; all of it at every order for which the theorem is used.
    """
    curve = curve_of(Release("gaussian", std / 2, Sampling("poisson", rate)), "replace-one")
    for others in ({0.0: 1.0}, {-2.0: 0.5, 1.0: 0.5}):
        laws = {}
        for own in (-1.0, 0.0, 0.5, 1.0):
            law: Counter[float] = Counter()
            for mean, chance in others.items():
                law[mean] += (1 - rate) * chance
                law[mean + own] += rate * chance
            laws[own] = density(dict(law), std)
        for one, other in itertools.permutations(laws, 2):
            for order in (2.0, 3.0, 5.0, 8.0, 16.0):
                exact = divergence(laws[one], laws[other], order)
                assert exact <= curve[ORDERS.index(order)] * (1 + 1e-6)


def kept(people: int, rate: float, most: int) -> dict[tuple[int, ...], float]:
    """Return the law of a truncated Poisson sample: each set that may be kept, and its chance."""
    found: Counter[tuple[int, ...]] = Counter()
    for size in range(people + 1):
        for drawn in itertools.combinations(range(people), size):
            chance = rate**size * (1 - rate) ** (people - size)
            ways = list(itertools.combinations(drawn, min(size, most)))
            for way in ways:
                found[way] += chance / len(ways)
    return dict(found)


def sums(sample: dict[tuple[int, ...], float], updates: tuple[float, ...]) -> Law:
    found: Counter[float] = Counter()
    for members, chance in sample.items():
        found[sum(updates[member] for member in members)] += chance
    return dict(found)


@pytest.mark.parametrize(("rate", "most"), [(0.3, 2), (0.5, 3), (0.1, 1)])
def test_a_member_of_a_truncated_sample_that_is_zeroed_out(rate: float, most: int) -> None:
    """Five people, every choice of the others' updates among -1, 0 and 1, and a cap that is met.

    Both ways that a truncated sample is counted: with the cap in the curve, and without it but for
    a share of delta.
    """
    std, people = 1.5, 5
    sample = kept(people, rate, most)
    assert sum(sample.values()) == pytest.approx(1)
    release = Release("gaussian", std, Sampling("truncated", rate, people, most))
    spent = Renyi("zero-out").compose(release)
    assert spent.truncated > 0
    delta = min(0.9, 2 * spent.truncated)
    without_cap = Renyi("zero-out", spent.untruncated, spent.untruncated)
    epsilon = without_cap.epsilon(delta - spent.truncated)
    for others in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), people - 1):
        pair = [density(sums(sample, (*others, own)), std) for own in (1.0, 0.0)]
        for p, q in (pair, pair[::-1]):
            for order in (1.5, 2.0, 4.0, 8.0):
                exact = divergence(p, q, order)
                assert exact <= spent.curve[ORDERS.index(order)] * (1 + 1e-6)
            assert np.sum(np.maximum(np.exp(p) - np.exp(epsilon + q), 0)) * STEP <= delta


def test_two_truncated_samples_by_a_share_of_delta() -> None:
    """Composed, on the losses themselves: what rule 2 of the budget takes from Whitehouse et al."""
    rate, most, people, std, delta = 0.1, 3, 6, 1.0, 0.01
    sample = kept(people, rate, most)
    release = Release("gaussian", std, Sampling("truncated", rate, people, most), count=2)
    spent = Renyi("zero-out").compose(release)
    assert 0 < spent.truncated < delta
    epsilon = Renyi("zero-out", spent.untruncated).epsilon(delta - spent.truncated)
    for others in ((1.0,) * 5, (-1.0,) * 5, (0.0,) * 5, (1.0, 1.0, 0.0, -1.0, -1.0)):
        pair = [density(sums(sample, (*others, own)), std)[3600:6001] for own in (1.0, 0.0)]
        for p, q in (pair, pair[::-1]):
            loss, weight = p - q, np.exp(p) * STEP
            together = loss[:, None] + loss[None, :]
            gain = np.maximum(-np.expm1(np.minimum(epsilon - together, 0.0)), 0.0)
            assert float(weight @ gain @ weight) <= delta


CORRELATIONS: dict[str, matrix.Correlation] = {
    "bands": matrix.optimal(matrix.workload(8, 0.5), 3),
    "one band": matrix.independent(8),
    "buffers": Buffered(8, (0.5, 0.3), (0.9, 0.6)),
}


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_round_of_correlated_noise_that_is_made_again(name: str) -> None:
    """A row more of C x + z, for another x in its own round: every pattern, every sign.

    The squares of what a client moves are at most those of all rounds and of one row.
    """
    own, separation = CORRELATIONS[name], 3
    c, most = own.dense(), most_participations(8, separation)
    rounds, row = own.sensitivity(most, separation), own.row_sensitivity(most, separation)
    largest = 0.0
    for size in range(1, most + 1):
        for places in itertools.combinations(range(8), size):
            if any(b - a < separation for a, b in itertools.pairwise(places)):
                continue
            for signs in itertools.product((1.0, -1.0), repeat=size):
                x = torch.zeros(8, dtype=torch.float64)
                x[list(places)] = torch.tensor(signs, dtype=torch.float64)
                for again in range(8):
                    for sign in (1.0, -1.0):
                        other = x.clone()
                        other[again] *= sign
                        first = float(c[again] @ other)
                        largest = max(largest, abs(first))
                        whole = float((c @ x).square().sum()) + first**2
                        assert whole <= rounds**2 + row**2 + 1e-9
    assert row == pytest.approx(largest)


def test_what_buffers_take_back_is_never_more_than_one() -> None:
    """No number of C^-1 is above 1, so that sums have room for the noise of all rounds."""
    for scales, decays in [((1.0,), (0.999,)), ((0.6, 0.4), (0.99, 0.1)), ((0.2,) * 5, (0.1,) * 5)]:
        inverse = torch.linalg.inv(Buffered(60, scales, decays).dense())
        assert float(inverse.abs().max()) <= 1 + 1e-9
