"""Means over seeds and how far they can be trusted: Student's t intervals, paired where possible.

For n values with mean m and standard deviation s (n - 1 in the denominator) the interval is m +-
t(n - 1) s / sqrt(n): it covers the expectation with the stated confidence where values are normal.
Of two settings run with the same seeds the differences are what is averaged: what a seed does to
both (split, initial model) drops out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

__all__ = ["Estimate", "estimate", "paired"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` values; `half_width` and `deviation` are NaN for a single one."""

    count: int
    mean: float
    deviation: float
    half_width: float

    @property
    def is_clear(self) -> bool:
        """Whether zero is outside the interval."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return mean and t interval of values; at least one. Infinite ones have a mean alone.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half_width, 4)
    (2.0, 2.4841)
    """
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return Estimate(count, sum(values) / count, math.nan, math.nan)
    from scipy.stats import t

    deviation = stdev(values)
    quantile = float(t.ppf((1 + confidence) / 2, count - 1))
    return Estimate(count, mean(values), deviation, quantile * deviation / math.sqrt(count))


def paired(
    values: Mapping[str, float], others: Mapping[str, float], confidence: float = 0.95
) -> Estimate | None:
    """Return the mean difference to `others` over the keys (seeds) of both; None without any."""
    both = sorted(values.keys() & others.keys())
    return estimate([values[key] - others[key] for key in both], confidence) if both else None
