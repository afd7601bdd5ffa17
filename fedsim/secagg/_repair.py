"""Finds the polynomial that most of some points lie on: Shamir's secret although shares are wrong.

Shares of one secret are a Reed-Solomon codeword, so up to half of what is there beyond the
threshold may be wrong (Gao, "A New Algorithm for Decoding Reed-Solomon Codes", 2003, algorithm 1).
"""

from collections.abc import Mapping

from fedsim.secagg.shamir import PRIME

Polynomial = list[int]  # coefficients, the constant first, without leading zeros


def interpolate_most(values: Mapping[int, int], terms: int) -> Polynomial | None:
    """Return the polynomial of so many terms through all but few of the points.

    `values` maps points to values modulo `PRIME`. Nothing, or another polynomial, is returned if
    more than (points - terms) / 2 of them are wrong.
    """
    points = list(values)
    whole, through = [1], Polynomial()
    for point in points:  # Newton's form: `whole` vanishes at all points so far
        gap = (values[point] - value_at(through, point)) * pow(value_at(whole, point), -1, PRIME)
        through = _add(through, whole, gap)
        whole = _add([0, *whole], whole, -point)
    rest, last = through, whole
    factor, before = [1], Polynomial()
    while 2 * (len(rest) - 1) >= len(points) + terms:  # Euclid, stopped half-way
        quotient, remainder = _divide(last, rest)
        last, rest = rest, remainder
        before, factor = factor, _add(before, _multiply(quotient, factor), -1)
    polynomial, remainder = _divide(rest, factor)
    return None if remainder or len(polynomial) > terms else polynomial


def value_at(polynomial: Polynomial, point: int) -> int:
    """Return the polynomial's value at a point: the secret at 0."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _trim(polynomial: Polynomial) -> Polynomial:
    while polynomial and not polynomial[-1]:
        polynomial.pop()
    return polynomial


def _add(one: Polynomial, two: Polynomial, factor: int) -> Polynomial:
    """Return `one` + `factor` x `two`."""
    size = max(len(one), len(two))
    left, right = one + [0] * (size - len(one)), two + [0] * (size - len(two))
    return _trim([(a + factor * b) % PRIME for a, b in zip(left, right, strict=True)])


def _multiply(one: Polynomial, two: Polynomial) -> Polynomial:
    product = [0] * (len(one) + len(two))
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            product[i + j] += a * b
    return _trim([value % PRIME for value in product])


def _divide(one: Polynomial, two: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Return quotient and remainder."""
    rest, quotient = list(one), [0] * max(0, len(one) - len(two) + 1)
    inverse = pow(two[-1], -1, PRIME)
    for place in reversed(range(len(quotient))):
        factor = rest[place + len(two) - 1] * inverse % PRIME
        quotient[place] = factor
        for j, b in enumerate(two):
            rest[place + j] = (rest[place + j] - factor * b) % PRIME
    return _trim(quotient), _trim(rest)
