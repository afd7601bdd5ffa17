import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from fedsim.privacy.noise import Stream
from fedsim.privacy.rotation import hadamard, padded, rotate, signs, unrotate
from fedsim.privacy.rounding import BETA, at_random, l1_bound, squared_bound

SIZES = [1, 2, 8, 64, 1024]


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_is_sylvesters_matrix(size):
    x = vectors(3, size)
    expected = x.numpy() @ linalg.hadamard(size) / math.sqrt(size)
    np.testing.assert_allclose(hadamard(x.clone()).numpy(), expected, atol=1e-12)


def test_long_vectors_are_transformed_in_pieces_to_the_same():
    """2^17 numbers: more than a piece. Sylvester's matrix is a Kronecker product."""
    x = vectors(2**17)
    outer, inner = linalg.hadamard(2**7), linalg.hadamard(2**10)
    expected = outer @ x.numpy().reshape(2**7, 2**10) @ inner / math.sqrt(2**17)
    np.testing.assert_allclose(hadamard(x.clone()).numpy(), expected.ravel(), atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.integers(1, 50))
def test_back_again_and_no_longer_or_shorter(dimension, seed, round):
    x, drawn = vectors(2, dimension, seed=seed), signs(seed, round, dimension)
    turned = rotate(x, drawn)
    assert turned.shape == (2, padded(dimension))
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(unrotate(turned, drawn, dimension), x)
    total = unrotate(turned.sum(dim=0), drawn, dimension)
    torch.testing.assert_close(total, x.sum(dim=0))


@pytest.mark.parametrize("dimension", [5, 1000, 40_000])
def test_a_vector_is_rotated_to_the_same_bits_alone_and_in_a_block(dimension):
    x, drawn = vectors(5, dimension).float(), signs(1, 1, dimension)
    alone = torch.cat([rotate(row.unsqueeze(0), drawn) for row in x])
    assert torch.equal(rotate(x, drawn), alone)


def test_the_worst_vector_is_spread_evenly():
    one = torch.zeros(1, 4096)
    one[0, 17] = 5.0
    spread = rotate(one, signs(3, 1, 4096))
    assert float(spread.abs().max()) == pytest.approx(5 / 64)


def test_signs_are_fair_and_new_in_every_round():
    first, again, other = signs(1, 1, 2**16), signs(1, 1, 2**16), signs(1, 2, 2**16)
    assert set(first.tolist()) == {-1.0, 1.0}
    assert abs(float(first.mean())) < 4 / 2**8
    assert abs(float((first * other).mean())) < 4 / 2**8
    assert torch.equal(first, again)
    assert stats.binomtest(int((first[1:] == first[:-1]).sum()), 2**16 - 1).pvalue > 1e-3


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2\\^p"):
        hadamard(torch.zeros(6, dtype=torch.float64))


# Rounding


def stream(purpose="rounding"):
    return Stream.seeded(2, purpose)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.floats(1e-3, 1e4), st.integers(0, 2**32))
def test_rounded_vectors_are_within_the_bounds_and_within_one(dimension, norm, seed):
    x = vectors(dimension, seed=seed)
    x *= norm / float(x.norm())
    rounded = at_random(x, norm, stream())
    assert int((rounded * rounded).sum()) <= squared_bound(norm, dimension)
    assert float((rounded - x).abs().max()) < 1 + 1e-9
    assert int(rounded.abs().sum()) <= l1_bound(
        math.sqrt(squared_bound(norm, dimension)), dimension
    )


def test_rounding_has_no_bias():
    x = torch.tensor([0.25, -0.5, 3.9, -7.01, 0.0, 2.0], dtype=torch.float64).repeat(20_000)
    mean = at_random(x, float(x.norm()), stream()).view(-1, 6).double().mean(dim=0)
    error = (mean - x[:6]).abs()
    assert float(error.max()) < 4 * 0.5 / math.sqrt(20_000)
    assert mean[4:].tolist() == [0.0, 2.0]


def test_a_vector_that_came_out_too_long_is_rounded_anew():
    """16 halves: 13 or more of them are rounded up in one of a hundred tries."""
    x = torch.full((16,), 0.5, dtype=torch.float64)
    assert squared_bound(float(x.norm()), 16, beta=BETA) == pytest.approx(12)
    drawn = stream()
    free = [int((x + drawn.uniform(16)).floor().sum()) for _ in range(2000)]
    assert max(free) > 12
    norm = float(x.norm())
    kept = [int((at_random(x, norm, drawn) ** 2).sum()) for _ in range(2000)]
    assert max(kept) == 12
    assert np.mean(kept) == pytest.approx(8, abs=0.2)


def test_bounds_of_the_paper():
    """Kairouz et al. 2021, proposition 22, by hand for a norm of 10 in 100 dimensions."""
    assert squared_bound(10.0, 100, beta=0) == 400
    assert squared_bound(10.0, 100) == pytest.approx(100 + 25 + 1.0 * (10 + 5))
    assert squared_bound(0.1, 4) == pytest.approx(min(2.1**2, 0.01 + 1 + 1.1))
    assert l1_bound(3.0, 100) == 9
    assert l1_bound(30.0, 100) == 300


@pytest.mark.parametrize(
    ("norm", "dimension", "beta"), [(0, 1, 0.5), (-1, 1, 0.5), (1, 0, 0.5), (1, 1, 1), (1, 1, -0.1)]
)
def test_no_bound_for_numbers_that_are_none(norm, dimension, beta):
    with pytest.raises(ValueError, match="no bound"):
        squared_bound(norm, dimension, beta)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.1])
def test_longer_vectors_are_refused(value):
    with pytest.raises(ValueError, match="norm"):
        at_random(torch.tensor([value], dtype=torch.float64), 1.0, stream())
    with pytest.raises(ValueError, match="2\\^30"):
        at_random(torch.tensor([1.0], dtype=torch.float64), 2.0**31, stream())
