"""Secrets of 32 bytes in shares: any `threshold` of them give the secret, fewer tell nothing.

Shamir, "How to share a secret" (CACM 22, 1979), over the field of the smallest prime above 2^256,
so that every 32-byte seed is one element. Values of a random polynomial of degree threshold - 1 are
the shares; its value at 0 is the secret.

Points are small positive integers (1 + a member's place in the roster), which keeps products short.
Python's integers do not take constant time; shares are made and combined where no other party can
measure how long.
"""

import math
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from fedsim.crypto import CryptoError

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "combine", "split", "weights"]

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
_WIDE_BYTES = 48  # reduced modulo PRIME, 384 random bits are uniform up to 2^-127
_MOST_POINT = 2**31
_STEPS = 32  # of Horner's rule between two reductions: small points let numbers grow slowly


def split(secret: bytes, points: Sequence[int], threshold: int) -> list[bytes]:
    """Return a share for each point; raise `ValueError` for a threshold out of reach.

    >>> shares = split(bytes(31) + b"!", [1, 2, 3], threshold=2)
    >>> combine(weights([3, 1]), [shares[2], shares[0]])[-1:]
    b'!'
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes: {SECRET_BYTES} are needed")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold = {threshold}: 1 to the number of points, {len(points)}")
    drawn = os.urandom(_WIDE_BYTES * (threshold - 1))
    coefficients = [
        int.from_bytes(drawn[start : start + _WIDE_BYTES], "big") % PRIME
        for start in range(0, len(drawn), _WIDE_BYTES)
    ]
    coefficients.append(int.from_bytes(secret, "big"))
    return [_value(coefficients, point, PRIME).to_bytes(SHARE_BYTES, "big") for point in points]


def weights(points: Sequence[int]) -> list[int]:
    """Return what each point's share counts for in the secret: Lagrange's weights at 0.

    They depend on the points only, so one set serves every secret that the same members hold. One
    inversion for all of them (Montgomery, "Speeding the Pollard and elliptic curve methods", 1987,
    section 10.3.1).
    """
    _check_points(points)
    below = _below(points)
    products = list(accumulate(below, lambda left, right: left * right % PRIME, initial=1))
    inverse = pow(products[-1], -1, PRIME)
    numerator = math.prod(points) % PRIME
    found = [0] * len(points)
    for place in range(len(points) - 1, -1, -1):
        found[place] = products[place] * inverse * numerator % PRIME
        inverse = inverse * below[place] % PRIME
    return found


def combine(weights: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """Return the secret of the shares whose points have these weights.

    Raise `CryptoError` where they cannot be shares of one 32-byte secret. Most wrong shares give a
    wrong secret: who combines compares it with a commitment.
    """
    if len(weights) != len(shares):
        raise ValueError(f"{len(shares)} shares for {len(weights)} weights: one for each")
    total = sum(weight * _number(share) for weight, share in zip(weights, shares, strict=True))
    secret: int = total % PRIME
    if secret >> 8 * SECRET_BYTES:
        raise CryptoError("shares do not belong together: they give no 32-byte secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def _below(points: Sequence[int]) -> list[int]:
    """Return what is below the line of each weight: the point times its distances to the others.

    As many small numbers as 63 bits hold are multiplied at once; the long products are few then.
    """
    column = np.array(points, np.int64)
    factors = column - column[:, None]
    np.fill_diagonal(factors, column)
    together = 63 // max(points).bit_length()
    ones = np.ones((len(points), -len(points) % together), np.int64)
    short = np.hstack([factors, ones]).reshape(len(points), -1, together).prod(axis=2)
    return [math.prod(row) % PRIME for row in short.tolist()]


def _value(coefficients: Iterable[int], point: int, prime: int) -> int:
    """Evaluate a polynomial, highest coefficient first."""
    value = 0
    for step, coefficient in enumerate(coefficients, start=1):
        value = value * point + coefficient
        if not step % _STEPS:
            value %= prime
    return value % prime


def _number(share: bytes) -> int:
    number = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or number >= PRIME:
        raise CryptoError(f"a share of {len(share)} bytes: {SHARE_BYTES}, below the prime")
    return number


def _check_points(points: Sequence[int]) -> None:
    if not points or min(points) < 1 or len(set(points)) != len(points):
        raise ValueError("points: one or more, different, and all above 0, where the secret is")
    if max(points) > _MOST_POINT:
        raise ValueError(f"points: {max(points)} is above {_MOST_POINT}")
