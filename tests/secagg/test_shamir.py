"""Secret sharing against rational arithmetic, brute force and counting."""

import contextlib
import os
from fractions import Fraction
from itertools import combinations, product
from math import prod

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.crypto import CryptoError
from fedsim.secagg import shamir
from fedsim.secagg.shamir import PRIME, SHARE_BYTES, combine, split, weights

SECRETS = st.binary(min_size=32, max_size=32)
POINTS = st.lists(st.integers(1, 2**31), min_size=1, max_size=12, unique=True)


def test_the_field_is_the_smallest_with_room_for_every_secret():
    assert sympy.nextprime(2**256) == PRIME
    assert PRIME < 2 ** (8 * SHARE_BYTES)


@given(POINTS)
def test_weights_are_those_of_lagrange(points):
    """Against fractions, reduced at the very end."""
    for point, weight in zip(points, weights(points), strict=True):
        exact = prod((Fraction(x, x - point) for x in points if x != point), start=Fraction(1))
        assert weight == exact.numerator * pow(exact.denominator, -1, PRIME) % PRIME


@given(SECRETS, POINTS, st.data())
def test_any_threshold_of_shares_gives_the_secret(secret, points, data):
    threshold = data.draw(st.integers(1, len(points)))
    shares = dict(zip(points, split(secret, points, threshold), strict=True))
    some = data.draw(st.permutations(points))
    for count in (threshold, len(points)):
        chosen = some[:count]
        assert combine(weights(chosen), [shares[x] for x in chosen]) == secret


@settings(max_examples=10)
@given(SECRETS, st.randoms(use_true_random=False))
def test_large_neighbourhoods_recover_too(secret, random):
    """Degree 140, threshold 104, rosters of 10,000: Horner's rule is reduced on the way."""
    points = random.sample(range(1, 10_001), 141)
    shares = split(secret, points, 104)
    chosen = random.sample(range(141), 104)
    found = combine(weights([points[i] for i in chosen]), [shares[i] for i in chosen])
    assert found == secret


@given(SECRETS, st.integers(2, 8))
def test_one_share_too_few_does_not_give_it(secret, threshold):
    points = range(1, threshold + 1)
    shares = split(secret, points, threshold)
    with contextlib.suppress(CryptoError):  # a number above 2^256, for one polynomial in 2^247
        assert combine(weights(points[:-1]), shares[:-1]) != secret


def test_fewer_shares_than_the_threshold_tell_nothing():
    """Every polynomial over a field of 7: two shares of three are spread evenly for any secret."""
    points, prime = (1, 2, 5, 6), 7
    for pair in combinations(points, 2):
        for secret in range(prime):
            seen = {
                tuple(shamir._value((*drawn, secret), x, prime) for x in pair)
                for drawn in product(range(prime), repeat=2)
            }
            assert len(seen) == prime**2


def test_values_of_polynomials_are_brute_force_ones():
    rng = np.random.default_rng(5)
    for size in (1, 2, 31, 32, 33, 64, 100):
        coefficients = [int.from_bytes(rng.bytes(33), "big") % PRIME for _ in range(size)]
        for point in (1, 2, 977, 10_000):
            powers = (c * point ** (size - 1 - place) for place, c in enumerate(coefficients))
            assert shamir._value(coefficients, point, PRIME) == sum(powers) % PRIME


def test_coefficients_fill_the_field_evenly(monkeypatch):
    """The polynomials' two unknown coefficients, from three shares; sixteen cells of each."""
    stream = np.random.default_rng(7)
    monkeypatch.setattr(os, "urandom", stream.bytes)
    cells = np.zeros((2, 16))
    half, top = pow(2, -1, PRIME), PRIME / 16
    for _ in range(3000):
        values = [int.from_bytes(s, "big") for s in split(bytes(32), [1, 2, 3], 3)]
        second = (values[2] - 2 * values[1] + values[0]) * half % PRIME
        first = (values[0] - second) % PRIME
        for row, number in enumerate((first, second)):
            cells[row, int(number / top)] += 1
    for row in cells:
        assert stats.chisquare(row).pvalue > 1e-3


def test_coefficients_are_new_each_time():
    assert len({tuple(split(bytes(32), [1, 2], 2)) for _ in range(20)}) == 20


def test_a_threshold_of_one_shares_the_secret_itself():
    assert split(b"\xff" * 32, [4, 9], 1) == [b"\0" + b"\xff" * 32] * 2


@pytest.mark.parametrize("points", [[], [0, 1], [-1, 2], [3, 3]], ids=str)
def test_points_that_are_none_are_refused(points):
    for call in (lambda: weights(points), lambda: split(bytes(32), points, 1)):
        with pytest.raises(ValueError, match="points: one or more, different"):
            call()


def test_points_have_a_bound():
    most = [2**31 - i for i in range(7)]
    assert combine(weights(most), split(bytes(32), most, 7)) == bytes(32)
    for call in (lambda: weights([1, 2**31 + 1]), lambda: split(bytes(32), [2**31 + 1], 1)):
        with pytest.raises(ValueError, match="points: 2147483649 is above 2147483648"):
            call()


def test_misuse_is_refused_with_what_is_accepted():
    for threshold in (0, 3):
        with pytest.raises(ValueError, match=f"threshold = {threshold}: 1 to .* points, 2"):
            split(bytes(32), [1, 2], threshold)
    with pytest.raises(ValueError, match="a secret of 31 bytes: 32"):
        split(bytes(31), [1, 2], 2)
    with pytest.raises(ValueError, match="1 shares for 2 weights"):
        combine(weights([1, 2]), [bytes(33)])


@pytest.mark.parametrize(
    "share",
    [bytes(32), bytes(34), b"", b"\xff" * 33, PRIME.to_bytes(33, "big")],
    ids=("short", "long", "empty", "ones", "prime"),
)
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(CryptoError, match=f"a share of {len(share)} bytes: 33"):
        combine([1], [share])


def test_a_secret_of_more_than_32_bytes_is_refused():
    assert combine([1], [(2**256 - 1).to_bytes(33, "big")]) == b"\xff" * 32
    for number in (2**256, PRIME - 1):
        with pytest.raises(CryptoError, match="do not belong together"):
            combine([1], [number.to_bytes(33, "big")])
