"""Privacy loss distributions: made from a mechanism, composed, read.

A mechanism is put on a grid of losses as dp-accounting does it, by "connecting the dots"
(Doroshenko et al., "Connect the Dots: Tighter Discrete Approximations of Privacy Loss
Distributions", PETS 2022), which never understates delta at any epsilon. Mechanisms, tails and
distribution functions are dp-accounting's; here is what has to be quick when hundreds of
distributions are made for one report: hockey-stick divergences as arrays, and one Fourier transform
for a whole list of distributions. Tests hold both to `dp_accounting.pld.PLDAccountant`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy._parts import Part

__all__ = [
    "Discrete",
    "FloatArray",
    "Losses",
    "TooFineError",
    "compose",
    "losses_of",
    "width_of",
]

FloatArray = NDArray[np.float64]

#: Which of two neighbours the output was drawn from: "remove" from the one with the member.
Side = Literal["remove", "add"]

TAIL = 1e-15  # mass that may be counted as an infinite loss to keep the grid short
MOST_POINTS = 2**21
MOST_POINTS_OF_ONE = 1_000_000


class TooFineError(Exception):
    """A distribution has too many points at this interval; take a wider one."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Masses at losses (lowest + i) x interval; `infinite` is the mass where all is lost.

    Masses are rounded up where in doubt, so they may add up to a little more than 1.
    """

    lowest: int
    masses: FloatArray
    infinite: float


@lru_cache(maxsize=48)
def losses_of(part: Part, side: Side, interval: float) -> Losses:
    """Return the losses of one release. Raises `TooFineError`."""
    if part.kind == "laplace":
        return _laplace(part, side, interval)
    if part.kind == "pure":
        return _pure(part.rate, interval)
    kind: str = side if part.kind in ("poisson", "gaussian") else part.kind
    first = _gaussian(kind, part.noise, part.rate, interval)
    if part.most == 0:
        return first
    second = _gaussian("replace", part.noise / 2, part.other_rate, interval)
    lowest = min(first.lowest, second.lowest)
    highest = max(x.lowest + len(x.masses) for x in (first, second))
    masses = np.zeros(highest - lowest)
    for share, one in ((1 - part.least, first), (part.most, second)):
        start = one.lowest - lowest
        masses[start : start + len(one.masses)] += share * one.masses
    infinite = (1 - part.least) * first.infinite + part.most * second.infinite
    return Losses(lowest, masses, min(1.0, infinite))


def width_of(part: Part) -> float:
    """Return about how long the range of one release's losses is, tails of 1e-22 cut off."""
    if part.kind == "pure":
        return 2 * part.rate
    if part.noise < 1e-150:
        return math.inf
    if part.kind == "laplace":
        return 2 / part.noise
    plain = 0.5 / part.noise**2 + 10.5 / part.noise
    if part.rate == 1:
        return 2 * plain
    raised = math.log1p(part.rate * math.expm1(min(plain, 700.0))) + max(0.0, plain - 700)
    return raised - math.log1p(-part.rate)


def _laplace(part: Part, side: Side, interval: float) -> Losses:
    from dp_accounting.pld.privacy_loss_distribution import from_laplace_mechanism

    if 2 / part.noise / interval > MOST_POINTS_OF_ONE:
        raise TooFineError
    found = from_laplace_mechanism(
        part.noise, value_discretization_interval=interval, sampling_prob=part.rate
    )
    return dense(found._pmf_remove if side == "remove" else found._pmf_add)


def _pure(epsilon: float, interval: float) -> Losses:
    """Return the losses of randomized response, which every pure mechanism stays below."""
    top = math.ceil(epsilon / interval)
    if 2 * top > MOST_POINTS_OF_ONE:
        raise TooFineError
    masses = np.zeros(2 * top + 1)
    masses[-1] = 1 / (1 + math.exp(-epsilon))
    masses[math.ceil(-epsilon / interval) + top] += 1 / (1 + math.exp(min(epsilon, 700)))
    return Losses(-top, masses, 0.0)


def _gaussian(kind: str, noise: float, rate: float, interval: float) -> Losses:
    """Discretize (1-q) N(0, z^2) + q N(1, z^2) against its neighbour; sensitivity 1."""
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    if noise < 1e-4 or width_of(Part("poisson", noise, rate)) / interval > MOST_POINTS_OF_ONE:
        raise TooFineError
    if rate == 1:  # "swap" and "poisson" are then the Gaussian mechanism itself
        kind = "remove" if kind != "replace" else kind
    if kind != "swap":
        loss = GaussianPrivacyLoss(
            noise, sampling_prob=rate, adjacency_type=AdjacencyType(kind.upper())
        )
        found = loss.connect_dots_bounds()
        return _dots(lambda e: _deltas(loss, e), found.epsilon_lower, found.epsilon_upper, interval)
    pair = [
        GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=adjacency)
        for adjacency in (AdjacencyType.REMOVE, AdjacencyType.ADD)
    ]
    highest = pair[0].connect_dots_bounds().epsilon_upper

    def swapped(epsilons: FloatArray) -> FloatArray:
        """Zhu, Dong and Wang, AISTATS 2022, theorem 11: subsets of fixed size, one replaced."""
        return np.where(epsilons >= 0, _deltas(pair[0], epsilons), _deltas(pair[1], epsilons))

    return _dots(swapped, -highest, highest, interval)


def _deltas(loss: Any, epsilons: FloatArray) -> FloatArray:
    """Return `loss.get_delta_for_epsilon` of many epsilons, without a Python call for each."""
    q, kind = loss.sampling_prob, loss.adjacency_type.value
    if kind == "REPLACE":
        x = _replace_cutoffs(loss, epsilons)
        has_cutoff = np.ones(len(epsilons), dtype=bool)
    else:
        sign = 1.0 if kind == "REMOVE" else -1.0
        has_cutoff = sign * epsilons > (math.log1p(-q) if q < 1 else -math.inf)
        x = np.zeros(len(epsilons))
        x[has_cutoff] = sign * _remove_cutoffs(loss, sign * epsilons[has_cutoff])
    deltas = -np.expm1(np.minimum(epsilons, 0)) if kind == "REMOVE" else np.zeros(len(epsilons))
    x = x[has_cutoff]
    lower = np.exp(epsilons[has_cutoff] + loss.mu_lower_log_cdf(x))
    deltas[has_cutoff] = loss.mu_upper_cdf(x) - lower
    return np.clip(deltas, 0, 1)


def _remove_cutoffs(loss: Any, epsilons: FloatArray) -> FloatArray:
    """Return the largest outputs whose loss is at least epsilon, for a member that is removed."""
    q, variance = loss.sampling_prob, loss.standard_deviation**2
    capped = np.minimum(epsilons, 700.0)
    with np.errstate(divide="ignore"):  # the least loss there is: at every output
        unsampled = np.log1p(np.expm1(capped) / q) + (epsilons - capped)
    if q == 1:
        unsampled = epsilons
    shift: float = loss.sensitivity
    return np.asarray(-0.5 * shift - unsampled * variance / shift)


def _replace_cutoffs(loss: Any, epsilons: FloatArray) -> FloatArray:
    """Return the same for a member that is replaced: dp-accounting's formula, as arrays."""
    q, variance = loss.sampling_prob, loss.standard_deviation**2
    half = np.maximum(np.abs(epsilons), 1e-300) / 2
    log_sinh = half + np.log(-np.expm1(-2 * half)) - math.log(2)
    log_scale = 0.5 / variance + math.log1p(-q) - math.log(q)
    log_term = log_scale + log_sinh
    asinh = np.logaddexp(0.5 * np.logaddexp(0, 2 * log_term), log_term)
    return np.where(epsilons == 0, 0.0, -variance * (np.sign(epsilons) * asinh + epsilons / 2))


def _dots(
    deltas: Callable[[FloatArray], FloatArray], lowest: float, highest: float, interval: float
) -> Losses:
    """Return masses on the grid whose profile is the chord of `deltas` between its points.

    Doroshenko et al. 2022, algorithm 1, as `create_pmf_pessimistic_connect_dots_fixed_gap`.
    """
    low, high = math.floor(lowest / interval), math.ceil(highest / interval)
    if high - low > MOST_POINTS_OF_ONE:
        raise TooFineError
    values = deltas(np.arange(low, high + 1, dtype=np.float64) * interval)
    steps = np.diff(np.minimum.accumulate(values))
    gap = math.expm1(interval)
    masses = np.empty(len(values))
    masses[0] = 1 - values[0] + steps[0] / gap
    masses[1:-1] = (steps[1:] - steps[:-1] * math.exp(interval)) / gap
    masses[-1] = steps[-1] / math.expm1(-interval)
    return Losses(low, np.maximum(masses, 0.0), float(values[-1]))


def dense(pmf: Any) -> Losses:
    """Return the losses of one of dp-accounting's distributions."""
    pmf = pmf.to_dense_pmf()
    return Losses(pmf._lower_loss, np.asarray(pmf._probs), float(pmf._infinity_mass))


def compose(parts: Sequence[tuple[Losses, int]]) -> Losses:
    """Return the losses of mechanisms run one after another, each `count` times.

    One Fourier transform for all. What its rounding may take from a tail is added to the infinite
    loss: its noise, of which the negative masses are a sample, and the drift of powers. Raises
    `TooFineError`.
    """
    from scipy import fft

    low, high = _range(parts)
    length = high - low + 1
    if length > MOST_POINTS:
        raise TooFineError
    points = fft.next_fast_len(max(length, *(len(one.masses) for one, _ in parts)), real=True)
    product = np.ones(points // 2 + 1, dtype=np.complex128)
    for one, count in parts:
        product *= fft.rfft(one.masses, points) ** count
    masses = np.roll(fft.irfft(product, points), -low)[:length]
    noise = math.sqrt(float((masses[masses < 0] ** 2).sum()))
    drift = np.finfo(np.float64).eps * sum(count for _, count in parts)
    with np.errstate(divide="ignore"):
        kept = sum(count * np.log1p(-one.infinite) for one, count in parts)
    lowest = sum(one.lowest * count for one, count in parts) + low
    infinite = -math.expm1(kept) + TAIL + 10 * noise + drift
    return Losses(lowest, masses, min(1.0, infinite))


def _range(parts: Sequence[tuple[Losses, int]]) -> tuple[int, int]:
    """Return the steps above the lowest loss that hold all but `TAIL` of the mass: Chernoff."""
    longest = max(len(one.masses) for one, _ in parts)
    spread = max(math.sqrt(sum(count * _variance(one.masses) for one, count in parts)), 1.0)
    low, high = 0, sum((len(one.masses) - 1) * count for one, count in parts)
    scales = (*(k / longest for k in (1, 2, 4, 7, 12, 20)), *(k / spread for k in (1, 3, 6, 9, 16)))
    blocks = [(*_blocks(one.masses), count) for one, count in parts]
    for order in scales:
        above = sum(n * _log_sum(logs + order * last) for logs, _, last, n in blocks)
        below = sum(n * _log_sum(logs - order * first) for logs, first, _, n in blocks)
        high = min(high, math.ceil((above + math.log(2 / TAIL)) / order))
        low = max(low, math.floor(-(below + math.log(2 / TAIL)) / order))
    return low, max(low, high)


def _variance(masses: FloatArray) -> float:
    i = np.arange(len(masses))
    mean = float(i @ masses)
    return max(0.0, float((i - mean) ** 2 @ masses))


def _blocks(masses: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return logarithms of the masses of neighbouring points together; their first and last."""
    size = max(1, len(masses) // 4096)
    padded = np.append(masses, np.zeros(-len(masses) % size))
    first = np.arange(0, len(padded), size, dtype=np.float64)
    logs = np.log(np.maximum(padded.reshape(-1, size).sum(axis=1), 1e-300))
    return logs, first, first + size - 1


def _log_sum(exponents: FloatArray) -> float:
    top = float(exponents.max())
    return top + math.log(float(np.exp(exponents - top).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Discrete:
    """The privacy profile of losses on a grid; `sides` as "remove" and "add", or one for both."""

    sides: tuple[Losses, ...]
    interval: float

    def deltas(self, epsilons: FloatArray) -> FloatArray:
        """Return delta at each epsilon, all 0 or more."""
        found = [_side_deltas(_sums(side, self.interval), epsilons) for side in self.sides]
        return np.asarray(np.max(found, axis=0))

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon that holds at delta; infinite where the grid cannot say."""
        return max(_side_epsilon(_sums(side, self.interval), delta) for side in self.sides)

    @property
    def highest(self) -> float:
        """The largest finite loss: delta is constant above."""
        return max(0.0, *((side.lowest + len(side.masses)) * self.interval for side in self.sides))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Of positive losses, the mass of each neighbour at a loss or above: `upper`, and `lower`.

    `lower` is times e^center, so that it neither overflows nor vanishes where epsilons are.
    """

    losses: FloatArray
    upper: FloatArray
    lower: FloatArray
    center: float


def _sums(side: Losses, interval: float) -> _Sums:
    first = max(0, 1 - side.lowest)
    losses = np.arange(first + side.lowest, len(side.masses) + side.lowest, dtype=np.float64)
    losses *= interval
    masses = side.masses[first:]
    upper = np.append(np.cumsum(masses[::-1])[::-1], 0.0) + side.infinite
    middle = int(np.searchsorted(-upper[:-1], -0.5))
    center = float(losses[middle]) if middle < len(losses) else 0.0
    # Too small a `lower` overstates delta, so cutting what would overflow is safe.
    with np.errstate(under="ignore"):
        weighted = masses * np.exp(np.minimum(center - losses, 700.0))
    return _Sums(losses, upper, np.append(np.cumsum(weighted[::-1])[::-1], 0.0), center)


def _side_deltas(sums: _Sums, epsilons: FloatArray) -> FloatArray:
    at = np.searchsorted(sums.losses, epsilons, side="right")
    return np.clip(sums.upper[at] - _taken(sums, epsilons, at), sums.upper[-1], 1)


def _taken(sums: _Sums, epsilons: FloatArray, at: Any) -> FloatArray:
    """Return e^epsilon x `lower`, at most 1; 0 where nothing is left."""
    lower = np.maximum(sums.lower[at], 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        taken = np.exp(np.minimum(epsilons - sums.center, 709.0)) * lower
    return np.asarray(np.minimum(taken, 1.0))


def _side_epsilon(sums: _Sums, delta: float) -> float:
    if sums.upper[-1] > delta:
        return math.inf
    if len(sums.losses) == 0:
        return 0.0
    # The first loss at which delta is small enough: epsilon lies between it and the one before.
    at_losses = sums.upper[1:] - _taken(sums, sums.losses, slice(1, None))
    i = int(np.flatnonzero(at_losses <= delta)[0])
    if i == 0 and sums.upper[0] - float(_taken(sums, np.zeros(1), slice(0, 1))[0]) <= delta:
        return 0.0
    most = float(sums.losses[i])
    if sums.upper[i] <= delta or sums.lower[i] < 1e-300:
        return most
    found = math.log(sums.upper[i] - delta) - math.log(sums.lower[i]) + sums.center
    return max(0.0, min(found, most))
