"""The discrete Gaussian from a table: fifty times as quick as `discrete.py`, exact to 2^-104.

For noise of a million numbers from each of many clients. The law is made once per sigma: the ratio
of two neighbouring probabilities is r^(2k+1) for r = exp(-1 / (2 sigma^2)), multiplied up on
integers of 448 bits, each step off by less than 2^-440 of the largest. Statistical distance as for
`skellam.py`.
"""

from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

from torch import Tensor

from fedsim.privacy import _alias
from fedsim.privacy.noise import Stream

__all__ = ["LARGEST_SIGMA", "discrete_gaussian_from_table"]

LARGEST_SIGMA = 2**15
_LEAST_SIGMA = Fraction(1, 4)
_BITS = 448
_DECIMAL = Context(prec=150)  # digits: more than 448 bits


def discrete_gaussian_from_table(sigma: Fraction | int, count: int, stream: Stream) -> Tensor:
    """Return `count` numbers of the discrete Gaussian with parameter sigma: int64.

    The first call for a sigma makes a table, which takes up to six seconds. Raises `ValueError`
    unless 1/4 <= sigma <= 2^15.
    """
    wanted = Fraction(sigma)
    if not _LEAST_SIGMA <= wanted <= LARGEST_SIGMA:
        raise ValueError(f"sigma {sigma} of a discrete Gaussian is not between 1/4 and 2^15")
    return _alias.draw(_table(wanted), count, stream)


@lru_cache(maxsize=4)
def _table(sigma: Fraction) -> _alias.Table:
    return _alias.table_of(_weights(sigma))


def _weights(sigma: Fraction) -> list[int]:
    """Return the probabilities of absolute values 0, 1, ... as integers that add up to 2^126."""
    exponent = -1 / (2 * sigma**2)
    quotient = _DECIMAL.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
    ratio = _fixed(_DECIMAL.exp(quotient))
    square = (ratio * ratio) >> _BITS
    found = [1 << _BITS]
    while found[-1] >> (_BITS - 200):  # until 2^-200 of the most likely
        found.append((found[-1] * ratio) >> _BITS)
        ratio = (ratio * square) >> _BITS
    return _alias.normalized(found)


def _fixed(value: Decimal) -> int:
    return int(_DECIMAL.multiply(value, Decimal(1 << _BITS)))
