"""How fine the grid of losses has to be.

Connecting the dots keeps the mean of a loss that lies between two points of the grid, and makes its
variance larger, by at most a quarter of the interval squared (Doroshenko et al., PETS 2022, section
3). What releases add up to is then wider than it is. That is nothing beside losses of some size,
and everything where thousands of them are far smaller than the interval: rates below a thousandth,
much noise. There the grid has to be finer, and can be, for it is short.
"""

import math
from collections.abc import Mapping

from fedsim.privacy._losses import width_of
from fedsim.privacy._parts import Part
from fedsim.privacy._profile import Gaussian

__all__ = ["TOLERANCE", "excess", "finer"]

TOLERANCE = 1e-3  # of epsilon, for numbers that are reported
_DELTA = 1e-10  # where it is estimated; above, a wider sum costs less
_MOST_POINTS = 2**19  # of all parts together, both ways: some tenths of a second
_DEVIATIONS = 16  # of a sum of losses, from one end of what is kept to the other


def excess(parts: Mapping[Part, int], interval: float) -> float:
    """Return how much the grid adds to epsilon, about: that of a Gaussian that is as much wider.

    Mostly twice what it is: losses are seldom in the middle between two points.
    """
    added = sum(parts.values()) * interval**2 / 4
    spread = _spread(parts)
    wider = math.sqrt(spread**2 + added)
    return Gaussian(wider).epsilon(_DELTA) - Gaussian(spread).epsilon(_DELTA)


def finer(parts: Mapping[Part, int], interval: float) -> float:
    """Return the interval, halved until it adds less than `TOLERANCE`, or costs too much."""
    spread = _spread(parts)
    if math.isinf(spread):
        return interval
    most = sum(2 * width_of(part) + _DEVIATIONS * spread for part in parts)
    while excess(parts, interval) > TOLERANCE and 2 * most / interval <= _MOST_POINTS:
        interval /= 2
    return interval


def _spread(parts: Mapping[Part, int]) -> float:
    """Return the standard deviation of all losses together, without their tails: no less counts."""
    squares = 0.0
    for part, count in parts.items():
        one = part.rate if part.kind == "pure" else part.rate / max(part.noise, 1e-150)
        squares += count * min(one, 1e150) ** 2
    return math.sqrt(squares)
