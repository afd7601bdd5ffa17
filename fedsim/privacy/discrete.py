"""The discrete Gaussian, sampled exactly: integers and coins, no floating-point number anywhere.

Canonne, Kamath and Steinke, "The discrete Gaussian for differential privacy", NeurIPS 2020 (arXiv
2004.00010), algorithms 1 to 3. The law on the integers is P(x) proportional to
exp(-x^2 / (2 sigma^2)).

Added to integer vectors that neighbours move by at most `sensitivity` in L2, it is
sensitivity^2 / (2 sigma^2)-zCDP (theorem 14), and its Renyi divergences are at most those of the
Gaussian with noise multiplier sigma / sensitivity: `Release("gaussian", sigma / sensitivity)` is
valid for RDP accountants. A privacy loss distribution of the continuous Gaussian is not a proven
bound for it; for `fedsim.privacy.noise.integer_gaussian`, a rounded normal, it is.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["discrete_gaussian", "discrete_gaussian_one", "zcdp"]

_Integers = NDArray[np.int64]
_Members = NDArray[np.bool_]
_Toss = Callable[[_Integers], _Members]
_WORD = 2**63 - 1
_ROOM = 2**62  # for what is compared
_LARGEST = 2**27  # of sigma's numerator and denominator: room for |y| up to 64 sigma


def zcdp(sigma: Fraction | int, sensitivity: Fraction | int) -> Fraction:
    """Return rho: integer sums with this noise are rho-zCDP (theorem 14).

    >>> zcdp(2, 1)
    Fraction(1, 8)
    """
    return Fraction(sensitivity) ** 2 / (2 * Fraction(sigma) ** 2)


def discrete_gaussian_one(variance: Fraction | int, stream: Stream) -> int:
    """Return one number of the discrete Gaussian with parameter sigma^2: algorithm 3 as it stands.

    Integers of any size: slow, for any rational sigma^2, and what `discrete_gaussian` is held to.
    Raises `ValueError` unless `variance` is positive.
    """
    squared = Fraction(variance)
    if squared <= 0:
        raise ValueError(f"variance {variance} is not positive")
    t = _root(squared) + 1
    while True:
        drawn = _laplace_one(t, stream)
        if _exp_coin((abs(drawn) - squared / t) ** 2 / (2 * squared), stream):
            return drawn


def discrete_gaussian(sigma: Fraction | int, count: int, stream: Stream) -> Tensor:
    """Return `count` numbers of the discrete Gaussian with parameter sigma: int64.

    Algorithm 3 on whole arrays, with 64-bit integers that cannot overflow. Where the paper tosses
    one coin of probability exp(-g), here are m coins of exp(-g / m), with g / m = p^2 <= 1 for a
    rational p. Raises `ValueError` unless sigma is positive and its numerator and denominator,
    in lowest terms, at most 2^27.
    """
    a, b = Fraction(sigma).as_integer_ratio()
    if not 0 < a <= _LARGEST or b > _LARGEST:
        raise ValueError(f"sigma {sigma} is not a fraction of positive integers up to {_LARGEST}")
    found = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        drawn = _laplace(a // b + 1, count - done + 8, stream)
        kept = drawn[_is_kept(drawn, a, b, stream)][: count - done]
        found[done : done + len(kept)] = kept
        done += len(kept)
    return torch.from_numpy(found)


def _is_kept(drawn: _Integers, a: int, b: int, stream: Stream) -> _Members:
    """Toss coins of probability exp(-(|y| - sigma^2 / t)^2 / (2 sigma^2)) for sigma = a / b.

    With d / e = ||y| - sigma^2 / t| / (2 sigma) and j = ceil(d / e), the exponent is 2 (d / e)^2:
    2 j^2 coins of exp(-(d / (e j))^2), all heads. j is 1 for |y| up to about 2 sigma.
    """
    t = a // b + 1
    size = np.abs(drawn)
    is_kept = size <= _ROOM // (t * b * b)
    member = np.flatnonzero(is_kept)
    for i in np.flatnonzero(~is_kept):  # |y| above 64 sigma or more: integers of any size
        exponent = (int(size[i]) - Fraction(a * a, b * b * t)) ** 2 * Fraction(b * b, 2 * a * a)
        is_kept[i] = _exp_coin(exponent, stream)
    d, e = np.abs(size[member] * (t * b * b) - a * a), 2 * t * b * a
    j = np.maximum(-(-d // e), 1)
    tossed = 0
    while len(member):
        heads = _exp_coins(len(d), _square(d, e * j, stream), stream)
        is_kept[member[~heads]] = False
        tossed += 1
        goes_on = heads & (tossed < 2 * j**2)
        member, d, j = member[goes_on], d[goes_on], j[goes_on]
    return is_kept


def _laplace(t: int, count: int, stream: Stream) -> _Integers:
    """Algorithm 2: numbers with P(x) proportional to exp(-|x| / t); fewer than `count` of them."""
    low = _below(np.full(count, t), stream)
    low = low[_exp_coins(count, _ratio(low, np.full(count, t), stream), stream)]
    high = np.zeros_like(low)
    going = np.arange(len(low))
    while len(going):  # the number of heads in a row of coins of probability exp(-1)
        going = going[_exp_coins(len(going), _ones, stream)]
        high[going] += 1
    size = low + t * high
    is_negative = stream.words(len(size)).numpy() < 0
    signed: _Integers = np.where(is_negative, -size, size)
    return signed[(size > 0) | ~is_negative]


def _exp_coins(count: int, toss: _Toss, stream: Stream) -> _Members:
    """Algorithm 1 for exponents up to 1: coins of probability exp(-g).

    `toss`: from indices to coins of probability g, each time new ones.
    """
    result = np.zeros(count, dtype=np.bool_)
    going, k = np.arange(count), 1
    while len(going):
        heads = toss(going) & (_below(np.full(len(going), k), stream) == 0)
        result[going[~heads]] = k % 2 == 1
        going, k = going[heads], k + 1
    return result


def _ratio(numerators: _Integers, denominators: _Integers, stream: Stream) -> _Toss:
    """Return what tosses coins of probability numerator / denominator."""
    return lambda own: _below(denominators[own], stream) < numerators[own]


def _square(numerators: _Integers, denominators: _Integers, stream: Stream) -> _Toss:
    """Return what tosses coins of probability (numerator / denominator)^2."""
    once = _ratio(numerators, denominators, stream)
    return lambda own: once(own) & once(own)


def _ones(own: _Integers) -> _Members:
    return np.ones(len(own), dtype=np.bool_)


def _below(bounds: _Integers, stream: Stream) -> _Integers:
    """Return integers, each uniform from 0 to its bound - 1: 63 bits, those too many refused."""
    found = np.empty(len(bounds), dtype=np.int64)
    going = np.arange(len(bounds))
    while len(going):
        drawn, own = stream.words(len(going)).numpy() & _WORD, bounds[going]
        found[going] = drawn % own
        going = going[drawn - found[going] > _WORD - own + 1]
    return found


def _laplace_one(t: int, stream: Stream) -> int:
    """Algorithm 2 as it stands."""
    while True:
        low = _below_one(t, stream)
        if not _exp_coin(Fraction(low, t), stream):
            continue
        high = 0
        while _exp_coin(Fraction(1), stream):
            high += 1
        size, is_negative = low + t * high, _below_one(2, stream) == 1
        if size or not is_negative:
            return -size if is_negative else size


def _exp_coin(exponent: Fraction, stream: Stream) -> bool:
    """Algorithm 1 as it stands: True with probability exp(-exponent)."""
    while exponent > 1:
        if not _exp_coin(Fraction(1), stream):
            return False
        exponent -= 1
    k = 1
    while _below_one(exponent.denominator * k, stream) < exponent.numerator:
        k += 1
    return k % 2 == 1


def _below_one(bound: int, stream: Stream) -> int:
    """Return an integer, uniform from 0 to bound - 1, of any size."""
    bits = (bound - 1).bit_length()
    while True:
        words = stream.words(-(-bits // 64)).tolist()
        drawn = sum((word % 2**64) << (64 * i) for i, word in enumerate(words)) % 2**bits
        if drawn < bound:
            return int(drawn)


def _root(squared: Fraction) -> int:
    """Return the square root, rounded down."""
    return math.isqrt(squared.numerator // squared.denominator)
