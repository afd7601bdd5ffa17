from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.secagg import shamir
from fedsim.secagg._repair import interpolate_most, value_at

P = shamir.PRIME


@st.composite
def codewords(draw):
    """Return coefficients, points with their true values, and which of these are made wrong."""
    terms = draw(st.integers(1, 6))
    count = draw(st.integers(terms, 14))
    coefficients = draw(st.lists(st.integers(0, P - 1), min_size=terms, max_size=terms))
    points = draw(st.lists(st.integers(1, 200), min_size=count, max_size=count, unique=True))
    values = {
        x: sum(c * pow(x, power, P) for power, c in enumerate(coefficients)) % P for x in points
    }
    most = (count - terms) // 2
    wrong = draw(st.lists(st.sampled_from(points), max_size=most, unique=True))
    return coefficients, values, {x: draw(st.integers(1, P - 1)) for x in wrong}


@given(codewords())
@settings(deadline=None)
def test_up_to_half_of_the_rest_may_be_wrong(codeword):
    coefficients, values, errors = codeword
    spoiled = {x: (y + errors.get(x, 0)) % P for x, y in values.items()}
    found = interpolate_most(spoiled, len(coefficients))
    assert found is not None
    padded = found + [0] * (len(coefficients) - len(found))
    assert padded == coefficients
    assert {x for x, y in spoiled.items() if value_at(found, x) != y} == set(errors)


def test_it_is_the_secret_of_shamirs_shares():
    secret = bytes(range(32))
    points = list(range(1, 13))
    shares = shamir.split(secret, points, 6)
    values = {x: int.from_bytes(share, "big") for x, share in zip(points, shares, strict=True)}
    for wrong in combinations(points, 3):
        spoiled = {x: (y + (x in wrong)) % P for x, y in values.items()}
        found = interpolate_most(spoiled, 6)
        assert value_at(found, 0).to_bytes(32, "big") == secret


@pytest.mark.parametrize("count", [2, 5])
def test_no_polynomial_is_made_up_where_none_fits(count):
    """Of 8 points of a line, so many moved at random: more than 3 are beyond telling."""
    values = {x: (3 + 5 * x + (x <= count) * (x**5 + 7) * 2**200) % P for x in range(1, 9)}
    found = interpolate_most(values, 2)
    assert (found == [3, 5]) == (count <= 3)
