"""Banded matrix factorization: JAX-Privacy's optima, brute force, and noise round by round."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedsim.privacy import matrix
from fedsim.privacy.events import Release
from fedsim.privacy.separation import most_participations

# JAX-Privacy 2.0.0: toeplitz.optimize_banded_toeplitz(64, 8), for the mean and for the last row.
MEAN_64_8 = (0.676678, 0.397713, 0.323760, 0.283046, 0.254409, 0.231377, 0.210888, 0.190427)
LAST_64_8 = (0.627511, 0.397804, 0.336874, 0.302454, 0.277205, 0.255759, 0.235340, 0.213024)


def rms(banded: matrix.Banded, separation: int) -> float:
    """The root mean squared error at unit noise multiplier, at most often participation."""
    rounds = banded.rounds
    most = most_participations(rounds, separation)
    errors = matrix.squared_errors(banded, matrix.workload(rounds))
    return float(errors.mean().sqrt()) * banded.sensitivity(most, separation)


@pytest.mark.parametrize(("error", "theirs"), [("mean", MEAN_64_8), ("last", LAST_64_8)])
def test_toeplitz_coefficients_are_those_of_jax_privacy(error: matrix.Error, theirs: tuple) -> None:
    column = matrix.toeplitz(matrix.sums(64), 8, error=error).table[20]
    torch.testing.assert_close(column, torch.tensor(theirs).double(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("rounds", "bands", "theirs"), [(64, 8, 6.867109), (150, 10, 11.353713)])
def test_optimal_errors_are_those_of_jax_privacy(rounds: int, bands: int, theirs: float) -> None:
    """JAX-Privacy 2.0.0, dense.optimize(..., bands=, equal_norm=True): mean squared error."""
    found = matrix.optimal(matrix.workload(rounds), bands)
    errors = matrix.squared_errors(found, matrix.workload(rounds))
    assert float(errors.mean()) == pytest.approx(theirs, rel=2e-6)


def test_full_square_root_has_the_known_largest_error() -> None:
    """C = B = A^(1/2): the last row of B and the first column of C both have norm^2 sum c_j^2."""
    rounds = 64
    coefficients = [math.comb(2 * j, j) / 4**j for j in range(rounds)]
    total = sum(c**2 for c in coefficients)
    column = torch.tensor(coefficients, dtype=torch.float64)
    plain = column.expand(rounds, -1).tril()
    errors = matrix.squared_errors(matrix.Banded(plain), matrix.workload(rounds))
    assert float(errors[-1]) == pytest.approx(total, rel=1e-9)
    found = matrix.square_root(rounds, rounds)
    assert found.sensitivity(1, rounds) == pytest.approx(1, abs=1e-12)
    assert float(found.table[-1, 0]) == pytest.approx(1)  # the last column is the diagonal alone


def brute_force(banded: matrix.Banded, participations: int, separation: int) -> float:
    """The largest norm of a signed sum of columns, over all patterns of participation."""
    gram = banded.dense().T @ banded.dense()
    best = 0.0
    for count in range(1, participations + 1):
        slack = banded.rounds - (count - 1) * separation
        if slack < 1:
            break  # so many participations do not fit
        places = torch.combinations(torch.arange(slack + count - 1), count)
        patterns = places + torch.arange(count) * (separation - 1)
        parts = gram[patterns[:, :, None], patterns[:, None, :]]
        for signs in itertools.product((1.0, -1.0), repeat=count - 1):
            own = torch.tensor((1.0, *signs), dtype=torch.float64)
            best = max(best, float((parts @ own @ own).max()))
    return math.sqrt(best)


@pytest.mark.parametrize(
    ("rounds", "bands", "participations", "separation"),
    [(64, 16, 4, 16), (64, 9, 3, 20), (40, 5, 3, 9), (24, 1, 3, 2), (12, 4, 1, 4), (7, 7, 2, 7)],
)
def test_sensitivity_is_that_of_brute_force(
    rounds: int, bands: int, participations: int, separation: int
) -> None:
    generator = torch.Generator().manual_seed(rounds)
    table = torch.rand(rounds, bands, dtype=torch.float64, generator=generator).tril()
    table[:, 1:] -= 0.5 * (table[:, 1:] > 0)
    table[:, 0] += 0.1
    for banded in (matrix.Banded(table), matrix.square_root(rounds, bands)):
        found = banded.sensitivity(participations, separation)
        assert found == pytest.approx(brute_force(banded, participations, separation), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(1, 50))
def test_normalized_columns_cost_the_root_of_the_participations(
    rounds: int, bands: int, extra: int, participations: int
) -> None:
    bands = min(bands, rounds)
    banded, separation = matrix.square_root(rounds, bands), bands + extra
    most = min(participations, most_participations(rounds, separation))
    found = banded.sensitivity(participations, separation)
    assert found == pytest.approx(math.sqrt(most), abs=1e-9)


def test_more_bands_than_separation_are_refused() -> None:
    with pytest.raises(ValueError, match="use at most 4 bands"):
        matrix.square_root(20, 5).sensitivity(2, 4)


@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.ones(3, 4), torch.zeros(3, 2), torch.ones(3, 2)]
)
def test_a_table_that_is_no_factor_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"table|diagonal|first"):
        matrix.Banded(bad)


def streamed(banded: matrix.Banded, fresh: torch.Tensor) -> torch.Tensor:
    state, noise = banded.begin(fresh[0]), []
    for row in fresh:
        own, state = banded.correlate(state, row)
        noise.append(own)
    return torch.stack(noise)


@pytest.mark.parametrize(("rounds", "bands"), [(30, 1), (30, 2), (30, 7), (9, 9), (1, 1)])
def test_noise_by_rounds_is_the_inverse_times_fresh_noise(rounds: int, bands: int) -> None:
    banded = matrix.square_root(rounds, bands)
    generator = torch.Generator().manual_seed(1)
    fresh = torch.randn(rounds, 5, dtype=torch.float64, generator=generator)
    before = fresh.clone()
    expected = torch.linalg.inv(banded.dense()) @ fresh
    torch.testing.assert_close(streamed(banded, fresh), expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(fresh, before)


def test_noise_goes_on_from_a_saved_state(tmp_path) -> None:
    banded = matrix.toeplitz(matrix.sums(20), 6)
    fresh = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    whole = streamed(banded, fresh)
    state = banded.begin(fresh[0])
    for step in range(20):
        torch.save(state, tmp_path / "state.pt")
        _, lost = banded.correlate(state, torch.randn(3))  # a round that is never finished
        assert lost["step"] == step + 1
        state = torch.load(tmp_path / "state.pt")
        own, state = banded.correlate(state, fresh[step])
        assert torch.equal(own, whole[step])
    with pytest.raises(ValueError, match="for 20 rounds"):
        banded.correlate(state, fresh[0])


def test_the_state_is_as_large_as_the_bands_less_one() -> None:
    state = matrix.square_root(20, 4).begin(torch.zeros(7))
    assert sum(v.numel() for v in state.values() if isinstance(v, torch.Tensor)) == 3 * 7


def test_one_band_is_independent_noise() -> None:
    rounds = 12
    banded = matrix.toeplitz(matrix.sums(rounds), 1)
    assert torch.equal(banded.dense(), matrix.independent(rounds).dense())
    fresh = torch.randn(rounds, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(streamed(banded, fresh), fresh)
    errors = matrix.squared_errors(banded, matrix.workload(rounds))
    assert errors.tolist() == list(range(1, rounds + 1))  # a random walk


def test_errors_are_the_variances_of_what_is_drawn() -> None:
    """64 rounds, 20,000 coordinates: variances of the summed noise within 5 standard errors."""
    banded = matrix.optimal(matrix.workload(64), 8)
    generator = torch.Generator().manual_seed(4)
    fresh = torch.randn(64, 20_000, dtype=torch.float64, generator=generator)
    found = streamed(banded, fresh).cumsum(dim=0).var(dim=1)
    expected = matrix.squared_errors(banded, matrix.workload(64))
    assert float((found / expected - 1).abs().max()) < 5 * math.sqrt(2 / 20_000)


def test_correlated_noise_beats_independent_noise() -> None:
    ways = [
        matrix.optimal(matrix.workload(150), 10),
        matrix.toeplitz(matrix.sums(150), 10),
        matrix.square_root(150, 10),
        matrix.independent(150),
    ]
    errors = [rms(way, 10) for way in ways]
    assert errors == sorted(errors)
    assert errors[3] > 2.5 * errors[1]


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(1, 8), st.floats(0, 0.95))
def test_no_small_change_of_the_coefficients_is_better(
    rounds: int, bands: int, momentum: float
) -> None:
    """Of the loss that `toeplitz` minimizes, computed densely: no step to any side lowers it."""
    bands = min(bands, rounds)
    whole, column = matrix.workload(rounds, momentum), matrix.sums(rounds, momentum)

    def loss(coefficients: torch.Tensor) -> float:
        plain = matrix.Banded(coefficients.expand(rounds, -1).tril())
        error = matrix.squared_errors(plain, whole).mean()
        return float(error * coefficients.square().sum())

    table = matrix.toeplitz(column, bands).table
    best = table[bands - 1].clone() / table[bands - 1, 0] if rounds >= 2 * bands else None
    if best is None:  # no row has only whole columns
        return
    for place in range(1, bands):
        for step in (-1e-2, 1e-2):
            changed = best.clone()
            changed[place] += step
            assert loss(changed) >= loss(best)


def test_workloads_are_what_the_optimizer_does() -> None:
    """The model after each round of SGD with momentum and a cooldown, for one unit gradient."""
    rounds, momentum = 8, 0.7
    factors = torch.tensor([1.0] * 4 + [0.75, 0.5, 0.25, 0.1], dtype=torch.float64)
    for source in range(rounds):
        model = velocity = 0.0
        for t in range(rounds):
            velocity = momentum * velocity + (t == source)
            model += float(factors[t]) * velocity
            expected = float(matrix.workload(rounds, momentum, factors)[t, source])
            assert model == pytest.approx(expected, abs=1e-12)
    whole = matrix.workload(rounds, momentum)
    torch.testing.assert_close(whole[:, 0], matrix.sums(rounds, momentum))


def test_a_workload_with_cooldown_has_an_optimum_of_its_own() -> None:
    rounds = 24
    factors = torch.cat([torch.ones(12), torch.linspace(1, 0.05, 12)]).double()
    whole = matrix.workload(rounds, 0.9, factors)
    own, other = matrix.optimal(whole, 5), matrix.optimal(matrix.workload(rounds), 5)
    errors = [float(matrix.squared_errors(way, whole).mean()) for way in (own, other)]
    assert errors[0] < 0.95 * errors[1]


def epsilon(noise_multiplier: float, delta: float) -> float:
    """Of one Gaussian release, exactly: Balle and Wang, ICML 2018, theorem 8."""
    mu = 1 / noise_multiplier

    def excess(eps: float) -> float:
        first = norm.cdf(mu / 2 - eps / mu)
        return float(first - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta)

    return float(brentq(excess, 0, 100))


@pytest.mark.parametrize(("rho", "published"), [(0.15, 3.42), (0.0144, 0.994)])
def test_the_budget_is_that_of_gboard(rho: float, published: float) -> None:
    """Google's mf_dpftrl_matrices: rho-zCDP and epsilon at delta 1e-10 (rho .0144 is rounded)."""
    rounds, separation = 2000, 250
    banded = matrix.toeplitz(matrix.sums(rounds), 100)
    most = most_participations(rounds, separation)
    found = banded.sensitivity(most, separation)
    assert found == pytest.approx(math.sqrt(8))
    deviation = found / math.sqrt(2 * rho)
    spent = matrix.release(deviation, found)
    assert spent == Release("matrix", spent.noise_multiplier, count=1)
    assert spent.noise_multiplier == pytest.approx(1 / math.sqrt(2 * rho))
    assert epsilon(spent.noise_multiplier, 1e-10) == pytest.approx(published, abs=5e-3)
