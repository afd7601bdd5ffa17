"""Buffered Toeplitz matrices: JAX-Privacy's optima, brute force, and noise round by round."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy import matrix
from fedsim.privacy.blt import Buffered, buffered
from fedsim.privacy.separation import most_participations


def example(rounds: int) -> Buffered:
    return Buffered(rounds, (0.3, 0.2, 0.05), (0.5, 0.8, 0.97))


@pytest.mark.parametrize(
    ("rounds", "separation", "theirs"),
    [(64, 8, 7.989900), (150, 10, 14.052859), (500, 20, 23.207710)],
)
def test_the_optimum_is_that_of_jax_privacy(rounds: int, separation: int, theirs: float) -> None:
    """JAX-Privacy 2.0.0, buffered_toeplitz.optimize(n, min_sep, error="mean", 2 buffers): the root
    of mean squared error x squared sensitivity."""
    found = buffered(matrix.sums(rounds), 2, separation)
    most = most_participations(rounds, separation)
    errors = matrix.squared_errors(found, matrix.workload(rounds))
    total = float(errors.mean().sqrt()) * found.sensitivity(most, separation)
    assert total == pytest.approx(theirs, rel=2e-6)


def test_the_last_error_is_an_aim_too() -> None:
    whole = matrix.workload(100)
    ways = [buffered(matrix.sums(100), 1, 100, error=error) for error in ("mean", "last")]
    found = []
    for way in ways:
        errors = matrix.squared_errors(way, whole) * way.sensitivity(1, 100) ** 2
        found.append((float(errors.mean()), float(errors[-1])))
    assert found[0][0] < found[1][0]
    assert found[1][1] < found[0][1]


def test_coefficients_are_sums_of_exponentials() -> None:
    dense = example(30).dense()
    for j in range(1, 30):
        expected = 0.3 * 0.5 ** (j - 1) + 0.2 * 0.8 ** (j - 1) + 0.05 * 0.97 ** (j - 1)
        assert float(dense[29, 29 - j]) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(dense.diagonal(), torch.ones(30, dtype=torch.float64))
    assert not dense.triu(1).any()


@pytest.mark.parametrize(
    ("rounds", "participations", "separation"), [(64, 3, 16), (30, 4, 3), (20, 1, 5), (9, 5, 2)]
)
def test_sensitivity_is_that_of_brute_force(
    rounds: int, participations: int, separation: int
) -> None:
    blt = example(rounds)
    gram, best = blt.dense().T @ blt.dense(), 0.0
    for count in range(1, participations + 1):
        slack = rounds - (count - 1) * separation
        if slack < 1:
            break  # so many participations do not fit
        places = torch.combinations(torch.arange(slack + count - 1), count)
        patterns = places + torch.arange(count) * (separation - 1)
        parts = gram[patterns[:, :, None], patterns[:, None, :]]
        for signs in itertools.product((1.0, -1.0), repeat=count - 1):
            own = torch.tensor((1.0, *signs), dtype=torch.float64)
            best = max(best, float((parts @ own @ own).max()))
    assert blt.sensitivity(participations, separation) == pytest.approx(math.sqrt(best), abs=1e-9)


def test_noise_by_rounds_is_the_inverse_times_fresh_noise(tmp_path) -> None:
    blt = example(40)
    fresh = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.inv(blt.dense()) @ fresh
    state = blt.begin(fresh[0])
    for step in range(40):
        torch.save(state, tmp_path / "state.pt")
        blt.correlate(state, torch.randn(5, dtype=torch.float64))  # a round that is never finished
        noise, state = blt.correlate(torch.load(tmp_path / "state.pt"), fresh[step])
        torch.testing.assert_close(noise, expected[step], atol=1e-12, rtol=1e-10)
    with pytest.raises(ValueError, match="for 40 rounds"):
        blt.correlate(state, fresh[0])
    kept = sum(v.numel() for v in state.values() if isinstance(v, torch.Tensor))
    assert kept == 3 * 5


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 60), st.floats(0, 0.9))
def test_every_optimum_is_a_legal_matrix_that_helps(
    rounds: int, buffers: int, separation: int, momentum: float
) -> None:
    separation = min(separation, rounds)
    most = most_participations(rounds, separation)
    whole = matrix.workload(rounds, momentum)

    def total(way: matrix.Correlation) -> float:
        errors = matrix.squared_errors(way, whole)
        return float(errors.mean().sqrt()) * way.sensitivity(most, separation)

    found = buffered(matrix.sums(rounds, momentum), buffers, separation)
    assert total(found) <= total(matrix.independent(rounds)) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("scales", "decays", "reason"),
    [
        ((0.5,), (0.5, 0.6), "1 scales for 2"),
        ((0.7, 0.4), (0.5, 0.6), "at most 1"),
        ((-0.1,), (0.5,), "not positive"),
        ((0.5,), (1.0,), "between 0 and 1"),
    ],
)
def test_other_numbers_are_refused(scales: tuple, decays: tuple, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Buffered(10, scales, decays)
