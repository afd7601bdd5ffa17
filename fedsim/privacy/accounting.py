"""From what was released to epsilon: the accountant.

    >>> from fedsim.privacy.events import Release, Sampling
    >>> releases = [Release("gaussian", 1.0, Sampling("poisson", rate=0.01), count=1000)]
    >>> round(epsilon(releases, 1e-5, "zero-out"), 2)
    1.83
    >>> round(epsilon(releases, 1e-5, "zero-out", amplified=False), 1)
    633.9

dp-accounting is the accountant of record: privacy loss distributions on a grid of 1e-4, rounded up,
for what is reported, or on a finer one where that would add a thousandth (`_grid.py`); Rényi
divergences (`Renyi`) while a run goes on, and where the grid cannot say. Releases in which
everybody takes part are Gaussians, which compose exactly. What is used:

| sampling | add-remove, zero-out | replace-one |
|---|---|---|
| all | Gaussian, exact | the same |
| poisson | sampled Gaussian, both directions | sampled Gaussian, replaced |
| truncated | zero-out alone: sampled, and a replaced member when the cap is met | the same |
| fixed | zero-out alone: a case of replace-one with half the noise, or no amplification if less | \
Zhu, Dong and Wang, AISTATS 2022, theorem 11 |

Discrete noise (`_lattice.py`) has Rényi divergences alone, and so has whatever is composed with it:
a bound says by which method it was found.

A noise multiplier is per L2 sensitivity, and that of "replace-one" is two clipping norms. (In
dp-accounting it is per clipping norm for loss distributions and per sensitivity for Rényi
divergences; the difference stops here.)
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from fedsim.privacy._grid import TOLERANCE, excess, finer
from fedsim.privacy._losses import Discrete, FloatArray, TooFineError, compose, losses_of
from fedsim.privacy._parts import Part, binned, parts_of, unamplified
from fedsim.privacy._profile import Gaussian, Profile, group, lines, roc, tight_mu
from fedsim.privacy._renyi import Renyi
from fedsim.privacy.events import ONCE, Adjacency, Release, Unit

__all__ = [
    "ADJACENCY",
    "INTERVAL",
    "Account",
    "Bound",
    "Profile",
    "Renyi",
    "account",
    "delta",
    "epsilon",
    "group_epsilon",
    "mu",
    "trajectory",
    "true_positive_rate",
    "worst",
]

#: What counts as neighbours, by unit. Everybody's number is public in the first two: a member that
#: is zeroed out changes no cohort size, no shard size and no denominator.
ADJACENCY: dict[Unit, Adjacency] = {
    "user": "zero-out",
    "example": "zero-out",
    "local": "replace-one",
}

INTERVAL = 1e-4  # of losses, for numbers that are reported
WIDEST = 0.5  # interval at which the grid is given up
_SHARE = 0.005  # of epsilon: Rényi divergences tell more than that above loss distributions
_DISCRETE = "no loss distribution is known of discrete noise, only Rényi divergences"
LEAST_CURVE = 1e-10  # deltas below are rounding, as far as a fit is concerned


@dataclass(frozen=True, slots=True)
class Bound:
    """One (epsilon, delta) and how it was found: "exact", "pld" or "rdp"; `note` says why."""

    epsilon: float
    delta: float
    method: str
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """Everything a list of releases discloses; make it with `account`.

    `profiles`: each holds, so the best is taken; none where the grid failed. `pure`: an epsilon
    that holds at delta 0. `notes`: what was rounded up or given up. `interval`: of the grid.
    """

    adjacency: Adjacency
    profiles: tuple[Profile, ...]
    pure: float
    notes: tuple[str, ...]
    interval: float
    parts: tuple[tuple[Part, int], ...] = field(repr=False)

    @property
    def renyi(self) -> Renyi:
        """The same releases as Rényi divergences: a check from another direction."""
        found = Renyi(self.adjacency)
        for part, count in self.parts:
            found = found.add(part, count)
        return found

    def bound(self, delta: float) -> Bound:
        """Return epsilon at `delta`, never negative; raises `ValueError` unless 0 <= delta <= 1."""
        if not 0 <= delta <= 1:
            raise ValueError(f"delta {delta} is not between 0 and 1")
        if delta == 1 or self.pure == 0:
            return Bound(0.0, delta, "exact")
        exact = all(isinstance(profile, Gaussian) for profile in self.profiles)
        found = min([profile.epsilon(delta) for profile in self.profiles], default=math.inf)
        best = Bound(min(found, self.pure), delta, "exact" if exact and self.profiles else "pld")
        if math.isfinite(best.epsilon) and self._is_fine_for(best.epsilon):
            return best
        renyi = self.renyi.epsilon(delta)
        if renyi >= best.epsilon:
            return best
        return Bound(renyi, delta, "rdp", self._why(best.epsilon))

    def _is_fine_for(self, best: float) -> bool:
        """Say whether what the grid adds to `best` is less than Rényi divergences could win."""
        if self.interval > 10 * INTERVAL:
            return False
        return excess(dict(self.parts), self.interval) <= max(TOLERANCE, _SHARE * best)

    def _why(self, best: float) -> str:
        """Say why Rényi divergences are used where loss distributions give `best`."""
        if any(part.lattice is not None for part, _ in self.parts):
            return _DISCRETE
        if best < math.inf:
            return "the grid of losses is too coarse here"
        return "delta is below what loss distributions resolve"

    def epsilon(self, delta: float) -> float:
        """Return epsilon at `delta`: `bound` without how it was found."""
        return self.bound(delta).epsilon

    def delta(self, epsilon: float) -> float:
        """Return delta at `epsilon`; raises `ValueError` for a negative epsilon or NaN."""
        if not epsilon >= 0:
            raise ValueError(f"epsilon {epsilon} is not 0 or more")
        if epsilon >= self.pure:
            return 0.0
        return min(float(self.deltas(np.array([epsilon]))[0]), self.renyi.delta(epsilon))

    def deltas(self, epsilons: FloatArray) -> FloatArray:
        """Return delta at each of `epsilons`, ascending or not: the privacy profile."""
        if not self.profiles:
            return self.renyi.deltas(epsilons)
        found = np.min([profile.deltas(epsilons) for profile in self.profiles], axis=0)
        return np.where(epsilons >= self.pure, 0.0, found)

    @property
    def highest(self) -> float:
        """Where the profile ends: it falls no further, or below 1e-15."""
        if not self.profiles:
            return self.renyi.epsilon(1e-15)
        return min(self.pure, *(profile.highest for profile in self.profiles))


def account(
    releases: Iterable[Release],
    adjacency: Adjacency,
    *,
    amplified: bool = True,
    interval: float = INTERVAL,
) -> Account:
    """Compose releases, in any order, under an adjacency.

    `interval`: of the grid of losses, at most; a wider one is quicker and never tells a smaller
    epsilon. `INTERVAL` is made finer where that is worth it, a wider one is not.
    `amplified=False`: as if everybody had taken part in each. Raises `ValueError` for sampling that
    has no valid analysis under the adjacency.
    """
    entries = list(releases)
    if not amplified:
        parts_of(entries, adjacency)  # what is refused stays refused
        entries = [unamplified(release) for release in entries]
    parts = parts_of(entries, adjacency)
    return _account(tuple(sorted(parts.items(), key=repr)), adjacency, interval)


@lru_cache(maxsize=16)
def _account(
    exact_parts: tuple[tuple[Part, int], ...], adjacency: Adjacency, interval: float
) -> Account:
    few = binned(dict(exact_parts))
    notes = []
    if len(few) < len(exact_parts):
        notes.append(f"{len(exact_parts)} kinds of release were rounded up to {len(few)}")
    parts = tuple(few.items())
    pure = sum(count * _pure(part) for part, count in exact_parts)
    profiles: list[Profile] = []
    found, interval = _profile(parts, interval)
    if found is None and all(part.lattice is None for part, _ in parts):
        notes.append("loss distributions are too wide here; Rényi divergences are used")
    elif found is not None:
        profiles.append(found)
    if any(part.kind == "swap" and part.plain > part.noise for part, _ in parts):
        plain = {
            Part("gaussian", part.plain) if _is_sampled(part) else part: 0 for part, _ in parts
        }
        for part, count in parts:
            plain[Part("gaussian", part.plain) if _is_sampled(part) else part] += count
        other, _ = _profile(tuple(_joined(plain).items()), interval)
        profiles += [other] if other is not None else []
    return Account(adjacency, tuple(profiles), pure, tuple(notes), interval, parts)


def _is_sampled(part: Part) -> bool:
    return part.kind in ("poisson", "replace", "swap")


def _joined(parts: dict[Part, int]) -> dict[Part, int]:
    """Make one of all plain Gaussians."""
    rest = {part: count for part, count in parts.items() if part.kind != "gaussian"}
    squares = sum(n * p.noise**-2 for p, n in parts.items() if p.kind == "gaussian")
    return rest | {Part("gaussian", squares**-0.5): 1}


def _pure(part: Part) -> float:
    """Return an epsilon that one run of a part has at delta 0."""
    if part.kind == "pure":
        return part.rate
    if part.kind != "laplace" or part.noise == 0:
        return math.inf
    if 1 / part.noise > 700:
        return 1 / part.noise
    return math.log1p(part.rate * math.expm1(1 / part.noise))


def _profile(parts: tuple[tuple[Part, int], ...], interval: float) -> tuple[Profile | None, float]:
    """Return the profile of parts and the interval it took, None where none will do."""
    if not parts:
        return Gaussian(0.0), interval
    if any(part.noise == 0 or math.isinf(part.rate) for part, _ in parts):
        return Gaussian(math.inf), interval
    if any(part.lattice is not None for part, _ in parts):
        return None, interval
    if len(parts) == 1 and parts[0][0].kind == "gaussian":
        return Gaussian(1 / parts[0][0].noise), interval
    width = finer(dict(parts), interval) if interval <= INTERVAL else interval
    both = any(p.kind == "poisson" or (p.kind == "laplace" and p.rate < 1) for p, _ in parts)
    while width <= WIDEST:
        try:
            sides = tuple(
                compose([(losses_of(part, side, width), count) for part, count in parts])
                for side in (("remove", "add") if both else ("remove",))
            )
        except TooFineError:
            width *= 2 if width < INTERVAL else 4
        else:
            return Discrete(sides, width), width
    return None, interval


def epsilon(
    releases: Iterable[Release],
    delta: float,
    adjacency: Adjacency,
    *,
    amplified: bool = True,
    interval: float = INTERVAL,
) -> float:
    """Return the epsilon at which releases are (epsilon, delta)-private; see `account`.

    0 for no releases, infinite without noise. Raises `ValueError` for a delta outside [0, 1].
    """
    return account(releases, adjacency, amplified=amplified, interval=interval).epsilon(delta)


def delta(
    releases: Iterable[Release], epsilon: float, adjacency: Adjacency, *, amplified: bool = True
) -> float:
    """Return the delta at which releases are (epsilon, delta)-private; see `account`."""
    return account(releases, adjacency, amplified=amplified).delta(epsilon)


def true_positive_rate(found: Account, false_positive_rate: float) -> float:
    """Return the most a test for one member can detect at a false positive rate.

    Kairouz, Oh and Viswanath, ICML 2015, theorem 2.1: no test of "is this member in?" has a higher
    chance of a right yes, whatever else it knows. Raises `ValueError` for a rate outside [0, 1].
    """
    if not 0 <= false_positive_rate <= 1:
        raise ValueError(f"false positive rate {false_positive_rate} is not between 0 and 1")
    return float(roc(*lines(found), np.array([false_positive_rate]))[0])


def group_epsilon(found: Account, size: int, delta: float) -> float:
    """Return epsilon at `delta` for `size` members at once (those of a family, a device).

    Dong, Roth and Su 2022, theorem 2.14: the ROC of `size` members is that of one, applied `size`
    times over. Raises `ValueError` for a size below 1 or a delta outside [0, 1].
    """
    if size < 1:
        raise ValueError(f"a group has at least 1 member, not {size}")
    if size == 1:
        return found.epsilon(delta)
    if not 0 <= delta <= 1:
        raise ValueError(f"delta {delta} is not between 0 and 1")
    if found.pure == 0:
        return 0.0
    if len(found.profiles) == 1 and isinstance(found.profiles[0], Gaussian):
        return Gaussian(size * found.profiles[0].mu).epsilon(delta)
    return min(size * found.pure, group(*_all_lines(found), size, delta))


def _all_lines(found: Account) -> tuple[FloatArray, FloatArray]:
    """Return the profile, and beyond what loss distributions resolve, Rényi's."""
    epsilons, deltas = lines(found, 900)
    renyi = found.renyi
    top = renyi.epsilon(1e-300)
    if math.isinf(top):
        return epsilons, deltas
    more = np.linspace(epsilons[-1], max(top, epsilons[-1]), 300)[1:]
    least = min(float(deltas[-1]), renyi.delta(float(epsilons[-1])))
    beyond = renyi.deltas(more)
    deltas = np.append(deltas[:-1], least)
    return np.append(epsilons, more), np.append(deltas, np.minimum(beyond, least))


def mu(found: Account) -> tuple[float, float]:
    """Return the least mu of Gaussian differential privacy that holds, and how loose it is.

    The second number is by how much the Gaussian's ROC lies above the true bound at most: below
    0.01 mu says everything there is to say (Gomez et al. 2025, arXiv 2503.10945, section 4). Deltas
    below 1e-10 are left out of the fit.
    """
    if found.pure == 0:
        return 0.0, 0.0
    for profile in found.profiles:
        if isinstance(profile, Gaussian) and len(found.profiles) == 1:
            return profile.mu, 0.0
    value = tight_mu(found, LEAST_CURVE)
    rates = np.concatenate([np.geomspace(1e-6, 0.5, 200), np.linspace(0.5, 1, 50)])
    loose = roc(*lines(Gaussian(value)), rates) - roc(*lines(found), rates)
    return value, float(max(0.0, loose.max()))


def trajectory(
    rounds: Sequence[Sequence[Release]],
    deltas: Sequence[float],
    adjacency: Adjacency,
    *,
    points: int = 24,
) -> tuple[list[int], list[list[float]]]:
    """Return epsilon after some rounds, for a plot: rounds (1 is the first), and for each delta.

    The last is what is reported; before it, on a wider grid, a few thousandths more at most.
    """
    if not rounds:
        return [], [[] for _ in deltas]
    last = len(rounds)
    shown = sorted({max(1, round(i * last / points)) for i in range(1, points + 1)} | {1, last})
    final = account([release for one in rounds for release in one], adjacency)
    ends = [final.epsilon(wanted) for wanted in deltas]
    interval = _plotted(final, ends)
    found: list[list[float]] = [[] for _ in deltas]
    merged: Counter[Release] = Counter()
    at = 0
    for end in shown[:-1]:
        merged.update(release for one in rounds[at:end] for release in one)
        at = end
        now = account(_multiplied(merged), adjacency, interval=interval)
        for values, wanted, most in zip(found, deltas, ends, strict=True):
            values.append(min(now.epsilon(wanted), most))
    for values, most in zip(found, ends, strict=True):
        values.append(most)
    return shown, found


def _plotted(final: Account, ends: Sequence[float]) -> float:
    """Return the interval at which rounding adds about a thousandth to epsilon.

    A release adds less than the interval's square.
    """
    releases = sum(count for _, count in final.parts)
    least = min(ends, default=0.0)
    if releases == 0 or math.isinf(least):
        return 10 * INTERVAL
    return float(np.clip(math.sqrt(1e-3 * least / releases), 10 * INTERVAL, 100 * INTERVAL))


def worst(
    histories: Iterable[Sequence[Release]], delta: float, adjacency: Adjacency
) -> tuple[int, float]:
    """Return which list of releases has the largest epsilon, and that epsilon.

    Loss distributions take long; who has a Rényi bound below what another one spent needs none.
    """
    bounds = []
    for place, releases in enumerate(histories):
        renyi = Renyi(adjacency)
        for release in releases:
            renyi = renyi.compose(release)
        bounds.append((renyi.epsilon(delta), place, releases))
    found, most = 0, 0.0
    for bound, place, releases in sorted(bounds, key=lambda each: -each[0]):
        if bound <= most:
            break
        spent = min(bound, epsilon(releases, delta, adjacency))
        if spent > most:
            found, most = place, spent
    return found, most


def _multiplied(merged: Mapping[Release, int]) -> list[Release]:
    """Return releases with their counts multiplied; those of `ONCE` are repeated."""
    spent: list[Release] = []
    for release, times in merged.items():
        if release.mechanism in ONCE:
            spent += [release] * times
        else:
            spent.append(replace(release, count=release.count * times))
    return spent
