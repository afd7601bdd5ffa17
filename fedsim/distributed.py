"""Distributed privacy in an experiment: between the configuration and `fedsim.privacy.distributed`.

What a client hands to the secure sum (`encode`), what the server makes of the sum (`decode`), and
what all of it releases. The model's coordinates are rotated and fill a power of two, so vectors are
longer than the model.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext, RoundContext, Sum
from fedsim.errors import ConfigError, Problem, SecAggAborted
from fedsim.exact import FixedPoint, InvalidUpdateError, PartialSum
from fedsim.privacy import central, rotation
from fedsim.privacy.distributed import Distributed, TooFewSurvivorsError
from fedsim.privacy.events import DISCRETE, Release, Sampling
from fedsim.privacy.noise import Stream

__all__ = [
    "decode",
    "encode",
    "facts",
    "in_ring",
    "is_distributed",
    "number_format",
    "parts",
    "release",
    "ring_bits",
    "sampling_of",
    "with_least_cohort",
]


_FEW_BITS, _MANY_BITS = 20, 32


def is_distributed(config: RunConfig) -> bool:
    """Say whether clients add the noise that hides them, each a part."""
    return config.privacy.unit == "user" and config.privacy.mechanism in DISCRETE


def ring_bits(config: RunConfig) -> int:
    """Return how many bits a number of a secure sum has.

    Unset: 32, or 20 where clients add noise, at which epsilon is that of central noise already.
    """
    return config.secure_sum.bits or (_FEW_BITS if is_distributed(config) else _MANY_BITS)


def parts(config: RunConfig, population: int, dimension: int) -> Distributed:
    """Return who adds how much noise to what. Raises `ConfigError` where that cannot be.

    Counted on are the survivors that `secure_sum.threshold` of a cohort leaves, or, where chance
    decides on the cohort, all of the largest one, for the server completes it.
    """
    privacy, secure = config.privacy, config.secure_sum
    asked, drawn = _expected(config, population), sampling_of(config, population)
    is_completed, most = drawn.kind == "truncated", drawn.most or asked
    least = max(secure.min_cohort, math.floor(secure.threshold * asked) + 1)
    counted = most if is_completed else asked
    assert privacy.noise_multiplier is not None  # `fedsim.spending.settled` has seen to it
    try:
        return Distributed(
            mechanism=privacy.mechanism,  # type: ignore[arg-type]  # the check has seen to it
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            dimension=dimension,
            bits=ring_bits(config),
            most=most,
            least=min(secure.min_cohort, most) if is_completed else least,
            colluders=math.ceil(secure.adversaries * counted),
            is_completed=is_completed,
        )
    except ValueError as error:
        raise ConfigError([_problem(config, str(error))]) from error


def _problem(config: RunConfig, reason: str) -> Problem:
    secure = config.secure_sum
    if "bits" in reason:
        return Problem("secure_sum.bits", ring_bits(config), f"more: {reason}")
    if "colluders" in reason:
        return Problem("secure_sum.adversaries", secure.adversaries, f"fewer: {reason}")
    return Problem("secure_sum.min_cohort", secure.min_cohort, f"another: {reason}")


def sampling_of(config: RunConfig, population: int) -> Sampling:
    """Return how the clients of a round are drawn."""
    asked = _expected(config, population)
    return central.sampling_of(config.privacy.sampling, population, asked)


def _expected(config: RunConfig, population: int) -> int:
    return min(config.rounds.cohort or population, population)


def release(config: RunConfig, population: int, dimension: int) -> Release:
    """Return what a round releases of anybody's data to whoever sees the models."""
    drawn = sampling_of(config, population)
    return parts(config, population, dimension).release(drawn)


def with_least_cohort(config: RunConfig, population: int, dimension: int) -> RunConfig:
    """Return the configuration with the survivors that noise is calibrated to as its minimum.

    So clients refuse to open a sum that has less noise in it: to see that afterwards, on the
    server, would be too late.
    """
    least = parts(config, population, dimension).least
    secure = replace(config.secure_sum, min_cohort=max(least, config.secure_sum.min_cohort))
    return replace(config, secure_sum=secure)


def number_format(config: RunConfig, population: int, dimension: int) -> FixedPoint:
    """Return the format of a run's sums: its steps are about those that clients round to."""
    own = parts(config, population, dimension)
    bits = math.floor(math.log2(own.scale / own.clipping_norm))
    norm = own.clipping_norm
    return FixedPoint(bits, norm, 1.0, dimension, max_norm=norm, bits=own.bits)


def in_ring(form: FixedPoint, own: Distributed) -> FixedPoint:
    """Return the format of the vectors that travel: whole numbers, any of the ring's.

    Sums wrap around with the small probability that `fedsim.privacy.distributed` allows for.
    """
    return replace(
        form,
        fraction_bits=0,
        max_abs=2.0 ** (own.bits - 1),
        dimension=own.width,
        max_norm=None,
        bits=own.bits,
    )


def encode(
    config: RunConfig, population: int, vectors: Tensor, contexts: Sequence[ClientContext]
) -> Tensor:
    """Return updates [clients, model] of one round as they enter the sum: int64, in the ring.

    Raises `fedsim.exact.InvalidUpdateError` for an update that is not finite.
    """
    own = parts(config, population, vectors.shape[1])
    streams = [
        # As secret as the context's seed is: see `Federation.client_seed`.
        Stream.seeded(ctx.seed, "distributed noise", round=ctx.round, client=ctx.client)
        for ctx in contexts
    ]
    try:
        return own.encode(vectors, streams, _signs(config.seed, contexts[0].round, own.dimension))
    except ValueError as error:
        raise InvalidUpdateError(str(error)) from error


def decode(
    config: RunConfig,
    population: int,
    dimension: int,
    total: PartialSum | None,
    context: RoundContext,
) -> Sum:
    """Return the sum with its noise, and with the public weight of a whole cohort.

    None is the sum of nobody, where chance asked nobody: noise alone. Raises `SecAggAborted` where
    fewer survived than noise was counted on.
    """
    own, asked = parts(config, population, dimension), _expected(config, population)
    whole = torch.zeros(own.width, dtype=torch.int64) if total is None else total.vector
    survivors = 0 if total is None else total.count
    is_secret = config.privacy.noise == "secret"
    purpose = "completed noise"
    stream = (
        Stream.secret() if is_secret else Stream.seeded(config.seed, purpose, round=context.round)
    )
    signs = _signs(config.seed, context.round, own.dimension)
    try:
        vector = own.decode(whole, survivors, signs, stream)
    except TooFewSurvivorsError as error:
        raise SecAggAborted(str(error), survivors, own.least) from error
    return Sum(vector, float(asked), asked)


def facts(config: RunConfig, population: int, dimension: int) -> dict[str, Any]:
    """Return what a run's record says of its mechanism; plain data."""
    own = parts(config, population, dimension)
    return {
        "mechanism": own.mechanism,
        "bits": own.bits,
        "steps_per_clipping_norm": own.scale,
        "rotated_dimension": own.width,
        "noise_std_of_one_client": own.clipping_norm * own.noise_multiplier / math.sqrt(own.shares),
        "noises_counted_on": own.shares,
        "most_clients": own.most,
        "least_survivors": own.least,
        "assumed_colluders": own.colluders,
        "is_completed": own.is_completed,
    }


@lru_cache(maxsize=2)
def _signs(seed: int, round: int, dimension: int) -> Tensor:
    return rotation.signs(seed, round, dimension)
