"""Rounding to integers at random, without bias, and with a norm that is known beforehand.

Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated learning with
secure aggregation", ICML 2021, section 4.1: each coordinate is rounded up with a probability that
keeps its mean; where the vector came out too long, all of it is rounded anew. The bound below is
kept in integers, so that privacy rests on no floating-point number.
"""

import math

import torch
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["BETA", "at_random", "l1_bound", "squared_bound"]

#: A vector is rounded anew with at most this probability; for most, hardly ever.
BETA = math.exp(-0.5)

_PIECE = 2**15
_LONGEST = 2.0**30  # its square fits into 62 bits


def squared_bound(norm: float, dimension: int, beta: float = BETA) -> float:
    """Return the square of the L2 norm that a vector of norm `norm` is rounded to, at most.

    Kairouz et al. 2021, proposition 22: min((D + sqrt(d))^2, D^2 + d / 4 + sqrt(2 ln(1 / beta))
    (D + sqrt(d) / 2)). Raises `ValueError` unless norm and dimension are positive and 0 <= beta < 1
    (0: never rounded anew).
    """
    if not (norm > 0 and dimension >= 1 and 0 <= beta < 1):
        raise ValueError(f"no bound for norm {norm}, dimension {dimension}, beta {beta}")
    always = (norm + math.sqrt(dimension)) ** 2
    if beta == 0:
        return always
    slack = math.sqrt(2 * math.log(1 / beta)) * (norm + math.sqrt(dimension) / 2)
    return min(always, norm**2 + dimension / 4 + slack)


def l1_bound(norm: float, dimension: int) -> float:
    """Return the L1 norm, at most, of an integer vector of L2 norm `norm`.

    An integer is at most its square; any vector's L1 norm is at most sqrt(d) times its L2 norm.
    """
    return norm * min(math.sqrt(dimension), norm)


def at_random(vector: Tensor, norm: float, stream: Stream) -> Tensor:
    """Return a float64 vector [dimension], of L2 norm at most `norm`, rounded: int64.

    The square of its norm is at most `squared_bound`. Raises `ValueError` for a vector that is not
    finite or longer than `norm` (but for the last digits), and for norms above 2^30.
    """
    if norm > _LONGEST:
        raise ValueError(f"a norm of {norm:.6g} steps is above 2^30: the scale is too fine")
    length = float(torch.linalg.vector_norm(vector))
    if not length <= norm * (1 + 1e-9):
        raise ValueError(f"a vector of norm {length:.6g}, not of at most {norm:.6g}, to be rounded")
    most = math.floor(squared_bound(norm, len(vector)))
    rounded = torch.empty(len(vector), dtype=torch.int64)
    while _round_into(rounded, vector, stream) > most:
        pass
    return rounded


def _round_into(target: Tensor, vector: Tensor, stream: Stream) -> int:
    """Round once; return the squared norm."""
    square = 0
    for start in range(0, len(vector), _PIECE):
        piece, own = vector[start : start + _PIECE], target[start : start + _PIECE]
        own.copy_((piece + stream.uniform(len(piece))).floor_())
        square += int(torch.dot(own, own))
    return square
