"""Before a run: of epsilon, noise, rounds and cohort, the one that follows from the others.

    >>> plan = Plan("user", 6000, delta=1e-5, cohort=600, rounds=150, noise_multiplier=1.765)
    >>> round(solve(plan).epsilon or 0, 2)
    3.43

Everything is found by loss distributions, rounded up: first on a wide grid, which is quick, then on
that of reports. What a wide grid allows, a narrow one allows too, so each starts where the one
before it ended.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from fedsim.privacy.accounting import (
    ADJACENCY,
    INTERVAL,
    account,
    group_epsilon,
    mu,
    true_positive_rate,
)
from fedsim.privacy.distributed import Distributed
from fedsim.privacy.events import Adjacency, Discrete, Release, Sampling, Unit

__all__ = [
    "UNKNOWNS",
    "Alternative",
    "Batches",
    "ByClients",
    "Outcome",
    "Plan",
    "alternatives",
    "calibrate_noise",
    "noise_of_clients",
    "outcome",
    "participations",
    "releases",
    "solve",
]

_T = TypeVar("_T")

#: How clients are chosen; "cyclic" asks all in turn.
ClientSampling = Literal["truncated", "poisson", "fixed", "all", "cyclic"]

Unknown = Literal["epsilon", "noise_multiplier", "rounds", "cohort"]
UNKNOWNS: tuple[Unknown, ...] = ("epsilon", "noise_multiplier", "rounds", "cohort")

_INTERVALS = (100 * INTERVAL, 10 * INTERVAL, INTERVAL)
_MOST_ROUNDS = 10_000_000
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e9
_RARE = 0.01  # chance that any client takes part more often than planned
_FACTORS = (0.5, 0.8, 1.25, 2.0)


@dataclass(frozen=True, slots=True)
class Batches:
    """How a client of unit "example" trains in a round: Poisson batches of its own examples."""

    examples: int
    batch_size: int
    local_steps: int


@dataclass(frozen=True, slots=True)
class ByClients:
    """Noise that clients of unit "user" add before a secure sum: see `distributed.py`.

    `dimension`: of the model. `threshold`, `colluders`: parts of a cohort: more than the first
    survive, the second may tell the server their noise.
    """

    mechanism: Discrete
    dimension: int
    bits: int = 20
    threshold: float = 2 / 3
    colluders: float = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as far as privacy is concerned; one of the last four is None, to be found.

    `noise_multiplier`: standard deviation of the noise per sensitivity, which is the clipping norm,
    and twice that in unit "local". `batches`: in unit "example", and only there. `by_clients`: in
    unit "user", where the server does not add the noise.
    """

    unit: Unit
    clients: int
    delta: float
    sampling: ClientSampling = "truncated"
    batches: Batches | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    rounds: int | None = None
    cohort: int | None = None
    by_clients: ByClients | None = None

    @property
    def unknown(self) -> Unknown:
        """What is to be found. Raises `ValueError` unless exactly one number is missing."""
        missing: list[Unknown] = [name for name in UNKNOWNS if getattr(self, name) is None]
        if len(missing) != 1:
            raise ValueError(f"of {', '.join(UNKNOWNS)} exactly one is left to be found")
        return missing[0]


@dataclass(frozen=True, slots=True)
class Alternative:
    """The same run with one number changed, and what epsilon it then has."""

    changed: str
    rounds: int
    cohort: int
    noise_multiplier: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan comes to.

    `spent`: epsilon of the plan, at most the one that was asked for. `unamplified`: its epsilon if
    it were known who takes part. `detected`: the highest true positive rate of any test for one
    member at a false positive rate of 1%. `mu`: of Gaussian differential privacy. `pairs`: epsilon
    of two members at once. `noise_of_mean`: standard deviation of the noise in a mean update, in
    clipping norms; in unit "example" in a mean gradient of a batch.
    """

    plan: Plan
    found: Unknown
    spent: float
    unamplified: float
    detected: float
    mu: float
    pairs: float
    participations: int
    noise_of_mean: float
    notes: tuple[str, ...]


def releases(plan: Plan) -> list[Release]:
    """Return what one member is in, over a whole run; rounds, cohort and noise must be there.

    In unit "user" the releases are the server's, each of which draws clients. In the others they
    are those of one client: it takes part as often as `participations` says, and nothing is
    amplified by who is asked, because all of a client's steps in a round depend on one draw.
    """
    from fedsim.privacy import central

    noise, cohort = _given(plan.noise_multiplier), _given(plan.cohort)
    count = participations(plan)
    sampling = Sampling()
    if plan.unit == "user":
        sampling = central.sampling_of(plan.sampling, plan.clients, cohort)
        if plan.by_clients is not None:
            return [noise_of_clients(plan, plan.by_clients).release(sampling, count)]
    elif plan.batches is not None:
        count *= plan.batches.local_steps
        if plan.batches.batch_size < plan.batches.examples:
            sampling = Sampling("poisson", plan.batches.batch_size / plan.batches.examples)
    return [Release("gaussian", noise, sampling, count)]


def noise_of_clients(plan: Plan, own: ByClients) -> Distributed:
    """Return who adds how much. Raises `ValueError` for a ring that is too small."""
    from fedsim.privacy import central

    noise, cohort = _given(plan.noise_multiplier), _given(plan.cohort)
    drawn = central.sampling_of(plan.sampling, plan.clients, cohort)
    if drawn.kind == "poisson":
        raise ValueError(
            "sampling 'poisson' has no largest cohort to complete noise to; 'truncated' has"
        )
    cohort = min(cohort, plan.clients)
    is_completed, most = drawn.kind == "truncated", drawn.most or cohort
    least = 1 if is_completed else min(cohort, math.floor(own.threshold * cohort) + 1)
    colluders = math.ceil(own.colluders * (most if is_completed else cohort))
    return Distributed(
        mechanism=own.mechanism,
        noise_multiplier=noise,
        clipping_norm=1.0,
        dimension=own.dimension,
        bits=own.bits,
        most=most,
        least=least,
        colluders=min(colluders, (most if is_completed else least) - 1),  # of tiny cohorts
        is_completed=is_completed,
    )


def participations(plan: Plan) -> int:
    """Return in how many rounds one client's data may be.

    Where clients are drawn and release on their own, the number is random, but known as it happens:
    it is one that with a chance of 99% no client exceeds.
    """
    from scipy import stats

    from fedsim.privacy import central

    rounds, cohort = _given(plan.rounds), _given(plan.cohort)
    fixed = central.participations(plan.sampling, plan.clients, cohort, rounds)
    if plan.unit == "user" or fixed < rounds or plan.sampling == "all" or cohort >= plan.clients:
        return fixed
    often = stats.binom.isf(_RARE / plan.clients, rounds, cohort / plan.clients)
    return max(1, int(often))


def solve(plan: Plan) -> Plan:
    """Return the plan with its unknown found.

    The least noise, the most rounds or the largest cohort that stays within epsilon. Raises
    `ValueError` where nothing does, and for a plan that lacks more or less than one number.
    """
    unknown = plan.unknown
    if unknown == "epsilon":
        return replace(plan, epsilon=_epsilon(plan, INTERVAL))
    wanted = _given(plan.epsilon)
    if unknown == "noise_multiplier":

        def with_noise(noise: float) -> list[Release]:
            return releases(replace(plan, noise_multiplier=noise))

        noise = calibrate_noise(with_noise, wanted, plan.delta, ADJACENCY[plan.unit])
        return replace(plan, noise_multiplier=noise)

    def with_number(number: int) -> Plan:
        return replace(plan, rounds=number) if unknown == "rounds" else replace(plan, cohort=number)

    found, most = 0, _MOST_ROUNDS if unknown == "rounds" else plan.clients
    for interval in _INTERVALS:

        def fits(number: int, interval: float = interval) -> bool:
            return _epsilon(with_number(number), interval) <= wanted

        found = _largest(fits, found, most)
    if found == 0:
        one = _epsilon(with_number(1), INTERVAL)
        raise ValueError(
            f"epsilon {wanted:.4g} is less than the {one:.4g} of 1 {_SINGULAR[unknown]}"
        )
    return with_number(found)


_SINGULAR = {"rounds": "round", "cohort": "client a round"}


def calibrate_noise(
    releases_for: Callable[[float], Iterable[Release]],
    epsilon: float,
    delta: float,
    adjacency: Adjacency,
) -> float:
    """Return the least noise multiplier with which releases are (epsilon, delta)-private.

    To a thousandth, and never too small; not below 0.001. `releases_for`: what is released, for a
    noise multiplier. Raises `ValueError` for a budget that is none, and where no noise is enough.
    """
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon {epsilon} is not a number above 0")
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is not between 0 and 1")

    def fits(noise: float, interval: float) -> bool:
        found = account(releases_for(noise), adjacency, interval=interval)
        return found.epsilon(delta) <= epsilon

    noise = 1.0
    while not fits(noise, _INTERVALS[0]):
        noise *= 2
        if noise > _MOST_NOISE:
            raise ValueError(f"no noise gives epsilon {epsilon:.4g} at delta {delta:.4g}")
    for interval, precision in zip(_INTERVALS, (1e-2, 3e-3, 5e-4), strict=True):
        noise = _least(lambda x, i=interval: fits(x, i), noise, precision)  # type: ignore[misc]
    return noise


def _least(fits: Callable[[float], bool], noise: float, precision: float) -> float:
    """Return the least noise that fits, below one that does: by ever longer steps, then halving."""
    step = 4 * precision
    low = noise / (1 + step)
    while low > _LEAST_NOISE and fits(low):
        noise, step = low, 2 * step
        low = noise / (1 + step)
    while noise > _LEAST_NOISE and noise / low > 1 + precision:
        middle = math.sqrt(low * noise)
        low, noise = (low, middle) if fits(middle) else (middle, noise)
    return noise


def _largest(fits: Callable[[int], bool], start: int, most: int) -> int:
    """Return the largest number that fits, where `start` does: by ever longer steps, then halving.

    A number that fits at `most` is taken; beyond, nobody looked.
    """
    low, step = start, 1
    while low < most and fits(min(most, low + step)):
        low, step = min(most, low + step), 2 * step
    high = min(most + 1, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def outcome(plan: Plan) -> Outcome:
    """Solve a plan and say what it comes to. Raises `ValueError` as `solve`."""
    found, solved = plan.unknown, solve(plan)
    parts = releases(solved)
    adjacency = ADJACENCY[plan.unit]
    spent = account(parts, adjacency)
    plain = account(parts, adjacency, amplified=False)
    noise = _given(solved.noise_multiplier)
    return Outcome(
        plan=solved,
        found=found,
        spent=spent.epsilon(plan.delta),
        unamplified=plain.epsilon(plan.delta),
        detected=true_positive_rate(spent, 0.01),
        mu=mu(spent)[0],
        pairs=group_epsilon(spent, 2, plan.delta),
        participations=participations(solved),
        noise_of_mean=_noise_of_mean(solved, noise),
        notes=spent.notes,
    )


def _noise_of_mean(plan: Plan, noise: float) -> float:
    if plan.batches is not None:
        return noise / plan.batches.batch_size
    cohort = _given(plan.cohort)
    return 2 * noise / math.sqrt(cohort) if plan.unit == "local" else noise / cohort


def alternatives(solved: Plan) -> list[Alternative]:
    """Return epsilon with fewer and more rounds, clients a round, and noise; on a wider grid."""
    rounds, cohort = _given(solved.rounds), _given(solved.cohort)
    noise = _given(solved.noise_multiplier)
    changed = [replace(solved, noise_multiplier=noise * factor) for factor in _FACTORS]
    changed += [replace(solved, rounds=max(1, round(rounds * factor))) for factor in _FACTORS]
    if solved.sampling != "all":
        changed += [
            replace(solved, cohort=min(solved.clients, max(1, round(cohort * factor))))
            for factor in _FACTORS
        ]
    unique = {(p.noise_multiplier, p.rounds, p.cohort): p for p in changed}
    unique.pop((noise, rounds, cohort), None)
    return [
        Alternative(
            changed=_difference(solved, plan),
            rounds=_given(plan.rounds),
            cohort=_given(plan.cohort),
            noise_multiplier=_given(plan.noise_multiplier),
            epsilon=_epsilon(plan, 10 * INTERVAL),
        )
        for plan in unique.values()
    ]


def _difference(a: Plan, b: Plan) -> str:
    return next(
        n for n in ("noise_multiplier", "rounds", "cohort") if getattr(a, n) != getattr(b, n)
    )


def _epsilon(plan: Plan, interval: float) -> float:
    found = account(releases(plan), ADJACENCY[plan.unit], interval=interval)
    return found.epsilon(plan.delta)


def _given(value: _T | None) -> _T:
    assert value is not None  # `solve` has seen to it
    return value
