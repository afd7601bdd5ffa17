"""User-level privacy: updates are clipped, noise is added once to their sum.

McMahan et al., "Learning differentially private recurrent language models", ICLR 2018, Algorithm 1,
with the estimator of its section 2.2 whose denominator is fixed: the sum of the cohort, each update
clipped to `clipping_norm` and weighed at most 1, is divided by the number of clients *expected*.
So one client moves the sum by at most `clipping_norm`, whoever else takes part, fails or is late,
and neither denominator nor noise depends on who did.

The sampler here is the one that is accounted: both come from the same `Sampling`.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from fedsim import rng
from fedsim.core import Sum
from fedsim.errors import ConfigError, Problem
from fedsim.exact import VOTE, FixedPoint, PartialSum, decode, fixed_point, ring_form
from fedsim.privacy import noise
from fedsim.privacy.adaptive import AdaptiveClipping
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.margin import bound
from fedsim.privacy.noise import Stream
from fedsim.privacy.separation import cyclic, most_participations
from fedsim.transforms.clip import Clip

__all__ = [
    "clip",
    "draw",
    "in_ring",
    "noised",
    "number_format",
    "participations",
    "release",
    "sampling_of",
    "steps_of",
    "votes",
    "weight",
    "with_noise",
]


_SPREAD = 5.0  # standard deviations of a Poisson cohort beyond which it is cut


def clip(clipping_norm: float) -> Clip:
    """Return what clients do to their updates: clip them, a thousandth below the bound."""
    return Clip(bound(clipping_norm))


def weight(examples: float, cap: float | None) -> float:
    """Return what a client counts for: 1, or its examples up to a cap as a part of that cap.

    >>> weight(30, None), weight(30, 60), weight(300, 60)
    (1.0, 0.5, 1.0)
    """
    return 1.0 if cap is None else min(examples, cap) / cap


def sampling_of(kind: str, population: int, cohort: int) -> Sampling:
    """Return how the clients of a round are drawn: `cohort` of `population`, in expectation.

    `kind`: "truncated", "poisson", "fixed"; "all" and "cyclic" leave nothing to chance.

    >>> sampling_of("truncated", 6000, 600).most
    723
    """
    if cohort >= population or kind in ("all", "cyclic"):
        return Sampling()
    rate = cohort / population
    if kind == "poisson":
        return Sampling("poisson", rate)
    if kind == "fixed":
        return Sampling("fixed", rate, population, cohort)
    most = min(population, math.ceil(cohort + _SPREAD * math.sqrt(cohort)))
    return Sampling("truncated", rate, population, most)


def participations(kind: str, population: int, cohort: int, rounds: int) -> int:
    """Return in how many releases of `rounds` a client's data may be."""
    is_in_turn = kind == "cyclic" and cohort < population
    return most_participations(rounds, population // cohort) if is_in_turn else rounds


def draw(
    kind: str, population: int, cohort: int, round: int, *, seed: int, is_secret: bool
) -> np.ndarray:
    """Draw the clients of a round, ascending: int64. See `sampling_of`.

    `is_secret`: the draw cannot be repeated by anybody, as amplification by sampling assumes; the
    order of "cyclic" always follows from the seed, because nothing rests on it.
    """
    sampling = sampling_of(kind, population, cohort)
    if kind == "cyclic" and cohort < population:
        return cyclic(population, cohort, 1, round - 1, rng.stream(seed, "cohort"))
    if sampling.kind == "all":
        return np.arange(population, dtype=np.int64)
    stream = Stream.secret() if is_secret else Stream.seeded(seed, "cohort", round=round)
    if sampling.kind == "fixed":
        return np.sort(stream.permutation(population)[:cohort].numpy())
    drawn = stream.coins(population, sampling.rate).nonzero().flatten().numpy()
    if sampling.most and len(drawn) > sampling.most:
        kept = stream.permutation(len(drawn))[: sampling.most].numpy()
        drawn = np.sort(drawn[kept])
    return np.asarray(drawn, dtype=np.int64)


def release(kind: str, population: int, cohort: int, noise_multiplier: float) -> Release:
    """Return what one round releases."""
    return Release("gaussian", noise_multiplier, sampling_of(kind, population, cohort))


def votes(norms: Callable[[], Tensor], form: FixedPoint | None) -> dict[str, Tensor]:
    """Return clients' votes on the clipping norm, added up, as lanes; none unless asked for.

    `norms` gives those of updates before they are clipped: [clients]. See `adaptive.py`.
    """
    if form is None or not form.has_votes or form.max_norm is None:
        return {}
    each = AdaptiveClipping().votes(norms(), {"clipping_norm": form.max_norm})
    return {VOTE: each.double().sum().reshape(1)}


def number_format(
    dimension: int,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    most: int,
    has_votes: bool = False,
) -> FixedPoint:
    """Return the fixed-point format of sums of at most `most` clipped updates, and of their noise.

    Raises what `fedsim.exact.fixed_point` raises.
    """
    room = clipping_norm * (1 + (noise.LARGEST_NORMAL + 1) * noise_multiplier / most)
    room = max(room, 0.5) if has_votes else room
    form = fixed_point(dimension, max_abs=room, max_weight=1.0, cohort=most)
    return replace(form, max_norm=clipping_norm, has_votes=has_votes)


def in_ring(form: FixedPoint, bits: int, most: int) -> FixedPoint:
    """Return the format of sums of at most `most` clipped updates modulo 2^bits.

    Raises `ConfigError` where the ring is too small for them, or for votes, which are halves.
    """
    assert form.max_norm is not None
    room = max(form.max_norm, 0.5) if form.has_votes else form.max_norm
    ring = ring_form(form.dimension, bits=bits, max_abs=room, max_weight=1.0, cohort=most)
    steps = min(ring.fraction_bits, form.fraction_bits)
    if form.has_votes and steps < 1:
        accepted = f"more: {most} clients' votes on the clipping norm are halves"
        raise ConfigError([Problem("secure_sum.bits", bits, accepted)])
    return replace(ring, fraction_bits=steps, max_norm=form.max_norm, has_votes=form.has_votes)


def noised(
    total: PartialSum, form: FixedPoint, noise_multiplier: float, cohort: int, stream: Stream
) -> Sum:
    """Return the sum as it is released: with noise, and with the public weight of a whole cohort.

    Integers are added to integers (see `noise.py`), so nothing of a float's last bits is in it.
    `form.max_norm` is the clipping norm.
    """
    drawn = noise.integer_gaussian(steps_of(noise_multiplier, form), form.dimension, stream)
    return with_noise(total, drawn, form, cohort)


def steps_of(noise_multiplier: float, form: FixedPoint) -> float:
    """Return the standard deviation of noise in steps of the format."""
    assert form.max_norm is not None
    bits, dimension = form.fraction_bits, form.dimension
    # Rounded by chance, a number is off by up to a whole step, not half of one.
    finer = 1 if form.bits is not None else 0
    scale = noise.integer_scale(
        noise_multiplier, form.max_norm, dimension=dimension, fraction_bits=bits - finer
    )
    return scale * 2.0**finer


def with_noise(total: PartialSum, drawn: Tensor, form: FixedPoint, cohort: int) -> Sum:
    """Return the sum with `drawn`, int64 in steps, and the public weight of a whole cohort."""
    decoded = decode(PartialSum(total.vector + drawn, 0, 0), form)
    return replace(decoded, weight=float(cohort), count=cohort)
