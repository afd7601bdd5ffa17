"""The server's half of user-level privacy: whom a round asks, and what of the sum is released.

`fedsim.privacy.central` has the parts; here they meet the experiment. The noise is independent in
every round, or correlated over rounds: DP-FTRL by banded matrix factorization
(`fedsim.privacy.matrix`) or with a few buffers (`fedsim.privacy.blt`), for clients that are asked
in turn.
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from fedsim import distributed, exact
from fedsim.config.schema import CORRELATED, Privacy, RunConfig
from fedsim.core import RoundContext, State, Sum
from fedsim.errors import ConfigError, Problem
from fedsim.exact import FixedPoint, PartialSum
from fedsim.privacy import blt, central, matrix
from fedsim.privacy.adaptive import AdaptiveClipping, update_noise_multiplier
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import ONCE, Release
from fedsim.privacy.individual import WHOLE, IndividualFilter
from fedsim.privacy.noise import Stream
from fedsim.privacy.separation import most_participations

__all__ = [
    "cohort",
    "expected",
    "facts",
    "individual",
    "is_correlated",
    "most",
    "number_format",
    "plan",
    "release",
    "released",
    "repeated",
]

_STATE = "privacy/noise/"  # of correlated noise, in the server's state
_CLIPPING_NORM = "privacy/clipping_norm"  # of the next round, if it adapts
_DIGITS = 36  # of correlated noise above a step: a double has the rest for the largest
_BUFFERS = 2  # with which the noise is within 8 percent of the best banded one
_LONG = 500  # rounds beyond which the optimum takes too long: Toeplitz is within a few percent


def is_correlated(config: RunConfig) -> bool:
    """Say whether the noise of a round takes back some of that before it."""
    return config.privacy.mechanism in CORRELATED


def expected(config: RunConfig, population: int) -> int:
    """Return how many clients a round asks, in expectation where chance decides."""
    return min(config.rounds.cohort or population, population)


def most(config: RunConfig, population: int) -> int:
    """Return how many clients a round asks at most."""
    asked, kind = expected(config, population), config.privacy.sampling
    drawn = central.sampling_of(kind, population, asked)
    return drawn.most or (population if drawn.kind == "poisson" else asked)


def cohort(config: RunConfig, population: int, round: int) -> Any:
    """Draw the clients of a round, ascending: int64 [cohort]."""
    privacy = config.privacy
    return central.draw(
        privacy.sampling,
        population,
        expected(config, population),
        round,
        seed=config.seed,
        is_secret=privacy.noise == "secret",
    )


def number_format(
    config: RunConfig, population: int, dimension: int, state: State | None
) -> FixedPoint:
    """Return the fixed-point format of a round's sum, its bound being the clipping norm.

    Raises `ConfigError` for noise that cannot be had.
    """
    if distributed.is_distributed(config):
        return distributed.number_format(config, population, dimension)
    privacy, std = config.privacy, _std(config, population)
    form = central.number_format(
        dimension,
        clipping_norm=(state or {}).get(_CLIPPING_NORM, privacy.clipping_norm),
        noise_multiplier=std * _spread(config) if is_correlated(config) else std,
        most=most(config, population),
        has_votes=privacy.clipping == "adaptive",
    )
    if config.secure_sum.name != "plain":
        # The noise is added to the sum when it is open: the ring needs no room for it.
        form = central.in_ring(form, distributed.ring_bits(config), most(config, population))
    if not is_correlated(config) or not std:
        return form
    # Correlated noise is computed in doubles, whose last bits must stay below a step.
    bits = _DIGITS - math.ceil(math.log2(std * privacy.clipping_norm))
    return replace(form, fraction_bits=min(form.fraction_bits, bits))


def released(
    config: RunConfig,
    population: int,
    total: PartialSum | None,
    form: FixedPoint,
    state: State,
    context: RoundContext,
) -> tuple[Sum, State]:
    """Return the sum with its noise, and what the server's state has to keep of it.

    `total` is None where nobody was asked, or nobody answered: then there is noise alone.
    """
    if distributed.is_distributed(config):
        return distributed.decode(config, population, form.dimension, total, context), {}
    privacy, asked = config.privacy, expected(config, population)
    is_secret = privacy.noise == "secret"
    stream = (
        Stream.secret() if is_secret else Stream.seeded(config.seed, "noise", round=context.round)
    )
    whole = exact.zero(form) if total is None else total
    if is_correlated(config):
        return _correlated(config, population, whole, form, state, stream)
    noisy = central.noised(whole, form, _std(config, population), asked, stream)
    if privacy.clipping == "fixed":
        return noisy, {}
    votes = exact.decode(whole, form).lanes.get(exact.VOTE, torch.zeros(1))
    adaptive = _adaptive(privacy)
    within = adaptive.released(votes, stream, asked)
    norm = adaptive.step({"clipping_norm": form.max_norm or 0.0}, within, asked)
    return noisy, {_CLIPPING_NORM: norm["clipping_norm"]}


def plan(config: RunConfig, population: int, dimension: int) -> Release:
    """Return everything that a run of all its rounds releases of the client most often in it."""
    own = release(config, population, dimension)
    if own.mechanism in ONCE:
        return own
    asked, rounds = expected(config, population), config.rounds.count
    sampling = config.privacy.sampling
    return replace(own, count=central.participations(sampling, population, asked, rounds))


def release(config: RunConfig, population: int, dimension: int) -> Release:
    """Return what a round releases; of correlated noise, or with a filter, what all rounds do."""
    privacy, asked = config.privacy, expected(config, population)
    assert privacy.noise_multiplier is not None
    if distributed.is_distributed(config):
        return distributed.release(config, population, dimension)
    if is_correlated(config):
        return Release("matrix", privacy.noise_multiplier)
    if own := individual(config):
        return own.release()
    return central.release(privacy.sampling, population, asked, privacy.noise_multiplier)


def repeated(config: RunConfig, population: int) -> Release:
    """Return what a round releases once more, which correlated noise has not accounted for.

    After a crash the round is made again with new noise z: what was released the first time is one
    more row of C x + z, with a z that is in no other.
    """
    own, separation = _correlation(config, population), _separation(config, population)
    most = most_participations(config.rounds.count, separation)
    return Release("gaussian", _std(config, population) / own.row_sensitivity(most, separation))


def individual(config: RunConfig) -> IndividualFilter | None:
    """Return the filter of clients' own accounts, None where they have none.

    Raises `ConfigError` where not even one round fits any of them.
    """
    privacy = config.privacy
    if privacy.client_epsilon is None:
        return None
    assert privacy.noise_multiplier is not None  # the configuration check has seen to it
    assert privacy.delta is not None  # and `fedsim.spending.settled` to this
    budget = Budget(privacy.client_epsilon, privacy.delta)
    own = IndividualFilter(budget, privacy.noise_multiplier)
    if own.most < WHOLE:
        accepted = f"at least {1 / own.mu:.4g}, or nobody could pay for one round"
        raise ConfigError([Problem("privacy.noise_multiplier", privacy.noise_multiplier, accepted)])
    return own


def facts(config: RunConfig, population: int, dimension: int) -> dict[str, Any]:
    """Return what a run's record says of its mechanism; plain data."""
    privacy = config.privacy
    if distributed.is_distributed(config):
        return distributed.facts(config, population, dimension)
    if own := individual(config):
        return {"mechanism": "gaussian", "fewest_rounds": own.most // WHOLE}
    if not is_correlated(config):
        return {"mechanism": privacy.mechanism}
    is_banded = privacy.mechanism == "matrix"
    return {
        "mechanism": privacy.mechanism,
        "bands" if is_banded else "buffers": _width(config, population),
        "min_separation": _separation(config, population),
        "sensitivity": _sensitivity(config, population),
    }


def _correlated(
    config: RunConfig,
    population: int,
    total: PartialSum,
    form: FixedPoint,
    state: State,
    stream: Stream,
) -> tuple[Sum, State]:
    """Add the noise of a round that is correlated with those before it."""
    own, asked = _correlation(config, population), expected(config, population)
    before = {k.removeprefix(_STATE): v for k, v in state.items() if k.startswith(_STATE)}
    fresh = stream.normals(form.dimension)
    drawn, after = own.correlate(before or own.begin(fresh), fresh)
    # The noise of all rounds is that of an ideal mechanism, rounded: see `fedsim.privacy.noise`.
    whole = (drawn * central.steps_of(_std(config, population), form)).round_().to(torch.int64)
    kept = {_STATE + name: value for name, value in after.items()}
    return central.with_noise(total, whole, form, asked), kept


def _std(config: RunConfig, population: int) -> float:
    """Return the standard deviation of a round's own noise, in clipping norms."""
    privacy = config.privacy
    multiplier = privacy.noise_multiplier or 0.0
    if is_correlated(config):
        return multiplier * _sensitivity(config, population)
    if privacy.clipping == "fixed":
        return multiplier
    sigma = _adaptive(privacy).sigma(expected(config, population))
    try:
        return update_noise_multiplier(multiplier, sigma)
    except ValueError as error:
        raise ConfigError([Problem("privacy.bit_noise", privacy.bit_noise, str(error))]) from error


def _adaptive(privacy: Privacy) -> AdaptiveClipping:
    return AdaptiveClipping(
        privacy.clipping_norm, privacy.target_quantile, privacy.clipping_lr, privacy.bit_noise
    )


def _separation(config: RunConfig, population: int) -> int:
    """Return the fewest rounds between two of one client."""
    return population // expected(config, population)


def _width(config: RunConfig, population: int) -> int:
    """Return how many bands C has, or buffers."""
    if config.privacy.mechanism == "blt":
        return config.privacy.buffers or _BUFFERS
    separation, rounds = _separation(config, population), config.rounds.count
    return config.privacy.bands or min(separation, rounds)


def _sensitivity(config: RunConfig, population: int) -> float:
    """Return the sensitivity of all rounds together, in clipping norms.

    Raises `ConfigError` for more bands than rounds between two of one client.
    """
    separation, rounds = _separation(config, population), config.rounds.count
    most = most_participations(rounds, separation)
    is_banded = config.privacy.mechanism == "matrix"
    if is_banded and _width(config, population) > min(separation, rounds):
        accepted = f"at most {min(separation, rounds)}, the rounds between two of one client"
        raise ConfigError([Problem("privacy.bands", config.privacy.bands, accepted)])
    return _correlation(config, population).sensitivity(most, separation)


def _correlation(config: RunConfig, population: int) -> matrix.Correlation:
    momentum = float(getattr(config.strategy, "momentum", 0.0))
    rounds, width = config.rounds.count, _width(config, population)
    if config.privacy.mechanism == "blt":
        return _buffered(rounds, width, _separation(config, population), momentum)
    return _factorized(rounds, width, momentum)


def _spread(config: RunConfig) -> float:
    """Bound a coordinate of correlated noise by that of independent noise: rows of C^-1 times.

    Of buffers no number there is above 1, since 1 / c has the coefficients 1 and
    -sum_d eta_d mu_d^(j-1), eta > 0 with the sum of the scales, |mu| < 1: its partial fractions.
    """
    return float(config.rounds.count)


@lru_cache(maxsize=4)
def _buffered(rounds: int, buffers: int, separation: int, momentum: float) -> blt.Buffered:
    """Return the factorization with so many buffers and the least error for a run's models."""
    return blt.buffered(matrix.sums(rounds, momentum), buffers, separation)


@lru_cache(maxsize=4)
def _factorized(rounds: int, bands: int, momentum: float) -> matrix.Banded:
    """Return the factorization with the least error for the models of a run."""
    if bands == 1:
        return matrix.independent(rounds)
    if rounds <= _LONG:
        return matrix.optimal(matrix.workload(rounds, momentum), bands)
    return matrix.toeplitz(matrix.sums(rounds, momentum), bands)
