"""The budget: whether something may still be released.

A cap (epsilon, delta) is a filter: it decides about an entry before anything of it is released.
For each client (its data are nobody else's, so each has the whole budget) an entry fits by one of
two rules; which one can apply is settled by the ledger's first entry, before anything was seen.

1. *Plan.* The first entry says all that its run means to release, and the privacy loss distribution
   (PLD) of all that is within the cap. What is within the plan then fits: releases whose number and
   parameters were fixed in advance compose without any cost of adaptivity, and to stop early, or to
   take them in another order, is post-processing of having made them all.
2. *Rényi.* Otherwise parameters may depend on earlier outputs (a second run is chosen by looking at
   the first), where PLDs do not just add up. The sum of the Rényi divergences, at one order, may
   reach epsilon - log(1 - 1/a) + log(delta a) / (a - 1): Feldman and Zrnic, "Individual Privacy
   Accounting via a Rényi Filter", NeurIPS 2021, theorem 4.3, with the conversion of Canonne, Kamath
   and Steinke 2020, proposition 12. The theorem is about one order, fixed in advance: it is the one
   at which the ledger's first entry could be repeated most often. Of truncated samples, a share of
   delta, fixed likewise, pays for the chance that a sample was truncated (approximate concentrated
   DP: Whitehouse, Ramdas, Rogers and Wu, ICML 2023).

Runs at the same time are covered as well: filters of a fixed Rényi order hold for mechanisms that
are interleaved (Haney et al., CCS 2023).

To accept by either rule, whichever suits the outcome, would be a third rule that no theorem covers:
so where a plan is within the cap, rule 2 counts all of it as spent.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import BudgetExceededError
from fedsim.privacy._entries import Entry, Spend
from fedsim.privacy._renyi import ORDERS, Renyi
from fedsim.privacy.events import ONCE, Adjacency, Release

__all__ = ["Budget", "Spent", "coarse"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)

#: Shares of delta that may be set aside for truncated samples.
_SHARES = (0.0, 0.01, 0.1, 0.5)
_MOST = 1 << 40  # entries that are counted: more than anybody can make


@dataclass(frozen=True, slots=True)
class Budget:
    """The cap: epsilon at delta, for everything released about a data set in one unit of privacy.

    Raises `ValueError` for numbers that no cap has.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"a budget's epsilon is positive and finite, not {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"a budget's delta is between 0 and 1, not {self.delta}")


@dataclass(frozen=True, slots=True)
class _Measure:
    """How rule 2 measures: at an order, by its place in `ORDERS`, with a share of delta."""

    order: int
    share: float

    def offset(self, delta: float) -> float:
        """Return what converts a divergence to epsilon, to be added."""
        a = ORDERS[self.order]
        return math.log1p(-1 / a) - math.log(delta * (1 - self.share) * a) / (a - 1)

    def cost(self, release: Release, adjacency: Adjacency) -> tuple[float, float]:
        """Return (divergence, chance of truncation) of a release."""
        curve, untruncated, chance = _curves(release, adjacency)
        if self.share:
            return float(untruncated[self.order]), chance
        return float(curve[self.order]), 0.0


@dataclass(slots=True)
class _Load:
    """What slots have spent as a measure sees it."""

    divergence: FloatArray
    chance: FloatArray

    def add(
        self, place: IntArray | slice, counts: IntArray | int, divergence: float, chance: float
    ) -> None:
        """Add releases; an infinite divergence counts only where there is one."""
        if math.isinf(divergence):
            self.divergence[place] += np.where(np.asarray(counts) > 0, divergence, 0.0)
        else:
            self.divergence[place] += counts * divergence
        self.chance[place] += counts * chance

    def is_within(self, measure: _Measure, budget: Budget) -> BoolArray:
        """Say which slots rule 2 lets have this much."""
        most = budget.epsilon - measure.offset(budget.delta)
        found = (self.divergence <= most) & (self.chance <= measure.share * budget.delta)
        return np.asarray(found, np.bool_)


class Spent:
    """What each client has spent, by the entries of one ledger, and what still fits.

    Clients have a slot each, as far as they were named; the last slot is everybody else.
    """

    def __init__(self) -> None:
        """Start with nothing spent."""
        self.opening: Entry | None = None
        self.runs: Counter[str] = Counter()
        self._counts: dict[Release, IntArray] = {}
        self._plan: dict[Release, IntArray] = {}
        self._is_named: BoolArray = np.ones(1, np.bool_)
        self._is_beyond: BoolArray = np.zeros(1, np.bool_)  # whether more than the plan was spent
        self._measures: dict[Budget, _Measure] = {}
        self._loads: dict[_Measure, _Load] = {}
        self._is_covered: dict[Budget, BoolArray] = {}

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        if self.opening is None:
            self._open(entry)
        self.runs[entry.run] += 1
        self._grow(entry.spends)
        for release, slots, count in _parts(entry.spends):
            counts = self._counts.setdefault(release, self._zeros())
            counts[slots] += count
            self._is_named[slots if isinstance(slots, np.ndarray) else -1] = True
            planned = self._plan.get(release)
            self._is_beyond[slots] |= counts[slots] > (0 if planned is None else planned[slots])
            for measure, load in self._loads.items():
                load.add(slots, count, *measure.cost(release, entry.adjacency))

    def check(self, entry: Entry, budget: Budget) -> None:
        """Raise `BudgetExceededError` unless the entry fits, for everybody it is of."""
        slots, fits, epsilons = self._judged(entry, budget)
        if not fits.all():
            worst = int(np.argmax(np.where(fits, -math.inf, epsilons)))
            is_all = worst == len(slots) - 1 and any(s.clients is None for s in entry.spends)
            who = "everybody" if is_all else f"client {slots[worst]}"
            raise self._refusal(entry, budget, who, float(epsilons[worst]))

    def prepare(self, entry: Entry, budget: Budget) -> None:
        """Compute what `check` will need and keep: of a plan, its loss distributions."""
        self._judged(entry, budget)

    def those_left(self, entry: Entry, budget: Budget) -> Entry:
        """Return the entry without the clients for whom it does not fit: an individual filter.

        Raises `BudgetExceededError` when nobody is left. Who is left out follows from what is
        written in the ledger alone, so it tells nothing more.
        """
        slots, fits, epsilons = self._judged(entry, budget)
        if fits.all():
            return entry
        if not fits.any() or any(spend.clients is None for spend in entry.spends):
            raise self._refusal(entry, budget, "each client", float(epsilons[~fits].min()))
        left = set(slots[fits].tolist())
        spends = (
            replace(s, clients=tuple(c for c in s.clients or () if c in left)) for s in entry.spends
        )
        return replace(entry, spends=tuple(s for s in spends if s.clients))

    def left(self, entry: Entry, budget: Budget) -> int:
        """Return how many more entries like this one fit, for everybody it is of."""
        least, most = 0, 1
        while most < _MOST and self._judged(entry, budget, most)[1].all():
            least, most = most, 2 * most
        while most - least > 1:
            middle = (least + most) // 2
            if self._judged(entry, budget, middle)[1].all():
                least = middle
            else:
                most = middle
        return least

    def histories(self) -> list[tuple[tuple[Release, ...], int]]:
        """Return each different list of releases that clients have, and how many have it.

        Everybody who was never named counts as one client; who has none is left out.
        """
        if not self._counts:
            return []
        releases = list(self._counts)
        table = np.stack([self._counts[release][self._is_named] for release in releases])
        table = table[:, table.any(axis=0)]
        found, sizes = np.unique(table, axis=1, return_counts=True)
        return [
            (_listed(releases, column), int(size))
            for column, size in zip(found.T.tolist(), sizes, strict=True)
        ]

    @property
    def _clients(self) -> int:
        """How many slots are of one client."""
        return len(self._is_beyond) - 1

    def _open(self, entry: Entry) -> None:
        self.opening = entry
        self._grow(entry.plan)
        for release, slots, count in _parts(entry.plan):
            self._plan.setdefault(release, self._zeros())[slots] += count

    def _grow(self, spends: Iterable[Spend]) -> None:
        """Give every client that is named a slot; it starts as one of everybody else."""
        most = max((s.clients[-1] + 1 for s in spends if s.clients), default=0)
        if most <= self._clients:
            return
        more = max(most, min(2 * self._clients, most + 1000)) - self._clients
        for table in (self._counts, self._plan):
            table.update({release: _longer(counts, more) for release, counts in table.items()})
        self._is_beyond = _longer(self._is_beyond, more)
        self._is_named = np.concatenate([self._is_named[:-1], np.zeros(more, np.bool_), [True]])
        for load in self._loads.values():
            load.divergence = _longer(load.divergence, more)
            load.chance = _longer(load.chance, more)
        self._is_covered.clear()

    def _zeros(self) -> IntArray:
        return np.zeros(self._clients + 1, np.int64)

    def _judged(
        self, entry: Entry, budget: Budget, times: int = 1
    ) -> tuple[IntArray, BoolArray, FloatArray]:
        """Return the slots an entry is of, whether it fits each, and what epsilon it makes.

        That epsilon is by rule 2, with the plan counted where it is within the cap.
        """
        if self.opening is None:
            trial = Spent()
            trial._open(entry)
            return trial._judged(entry, budget, times)
        self._grow(entry.spends)
        measure = self._measure(self.opening, budget)
        slots = _touched(entry.spends, self._clients)
        after = self._after(entry.spends, slots, times)
        load = self._load(measure, entry.adjacency)
        load = _Load(load.divergence[slots], load.chance[slots])
        for release, own, count in _parts(entry.spends):
            place = slice(None) if isinstance(own, slice) else np.searchsorted(slots, own)
            load.add(place, times * count, *measure.cost(release, entry.adjacency))
        is_covered = self._covered(budget)[slots]
        if is_covered.any():
            for release, planned in self._plan.items():
                spent = after[release] if release in after else self._count(release)[slots]
                rest = np.where(is_covered, np.maximum(planned[slots] - spent, 0), 0)
                load.add(slice(None), rest, *measure.cost(release, entry.adjacency))
        is_planned = is_covered & ~self._is_beyond[slots]
        for release, counts in after.items():
            is_planned &= counts <= self._plan.get(release, self._zeros())[slots]
        epsilons = np.maximum(load.divergence + measure.offset(budget.delta), 0.0)
        return slots, is_planned | load.is_within(measure, budget), epsilons

    def _after(
        self, spends: Iterable[Spend], slots: IntArray, times: int
    ) -> dict[Release, IntArray]:
        """Return how often the slots will have had each release of `spends`."""
        after: dict[Release, IntArray] = {}
        for release, own, count in _parts(spends):
            place = slice(None) if isinstance(own, slice) else np.searchsorted(slots, own)
            after.setdefault(release, self._count(release)[slots])[place] += times * count
        return after

    def _count(self, release: Release) -> IntArray:
        found = self._counts.get(release)
        return self._zeros() if found is None else found

    def _measure(self, opening: Entry, budget: Budget) -> _Measure:
        if budget not in self._measures:
            self._measures[budget] = _best_measure(opening, budget)
        return self._measures[budget]

    def _load(self, measure: _Measure, adjacency: Adjacency) -> _Load:
        if measure not in self._loads:
            load = _Load(np.zeros(self._clients + 1), np.zeros(self._clients + 1))
            for release, counts in self._counts.items():
                load.add(slice(None), counts, *measure.cost(release, adjacency))
            self._loads[measure] = load
        return self._loads[measure]

    def _covered(self, budget: Budget) -> BoolArray:
        """Return for which slots the plan, all of it, is within the cap."""
        if budget not in self._is_covered:
            found = np.zeros(self._clients + 1, np.bool_)
            if self._plan:
                assert self.opening is not None
                releases = list(self._plan)
                table = np.stack([self._plan[release] for release in releases])
                columns, which = np.unique(table, axis=1, return_inverse=True)
                fits = [
                    _plan_fits(_listed(releases, column), self.opening.adjacency, budget)
                    for column in columns.T.tolist()
                ]
                found = np.array(fits)[which.reshape(-1)]
            self._is_covered[budget] = found
        return self._is_covered[budget]

    def _refusal(
        self, entry: Entry, budget: Budget, who: str, epsilon: float
    ) -> BudgetExceededError:
        before = ", ".join(list(self.runs)[:3]) + (", ..." if len(self.runs) > 3 else "")
        plan = ""
        if self.opening and self._covered(budget).any():
            plan = f", with the plan of run {self.opening.run}, which may still be carried out"
        return BudgetExceededError(
            f"round {entry.round} of run {entry.run} is refused, no client has trained in it: it "
            f"would take {who} to epsilon {epsilon:.4g} at delta {budget.delta:g}{plan}, and the "
            f"cap is {budget.epsilon:g} for all that is released about data set {entry.dataset!r} "
            f"by unit {entry.unit!r} (spent so far by: {before or 'nobody'}). More noise, fewer "
            "rounds or a higher privacy.epsilon, in a new run, would fit; see: fedsim privacy plan"
        )


def coarse(epsilons: Sequence[float], budget: Budget) -> dict[str, tuple[float, float]]:
    """Return least, median and most of what clients spent, as quarters of the cap: (from, to).

    For spends that depend on clients' data (`individual.py`), which are private themselves: even
    this tells something, so it is meant for whoever runs the simulation, not for a publication.

    >>> coarse([0.1, 0.9, 2.9], Budget(3.0, 1e-5))
    {'least': (0.0, 0.75), 'median': (0.75, 1.5), 'most': (2.25, 3.0)}
    """
    ordered = sorted(epsilons)
    if not ordered:
        return {}
    chosen = {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]}
    quarter = budget.epsilon / 4
    bins = {key: max(0, math.ceil(value / quarter) - 1) for key, value in chosen.items()}
    return {key: (number * quarter, (number + 1) * quarter) for key, number in bins.items()}


@lru_cache(maxsize=1024)
def _plan_fits(releases: tuple[Release, ...], adjacency: Adjacency, budget: Budget) -> bool:
    """Say whether releases that were all fixed in advance are within the cap, together."""
    spent = Renyi(adjacency)
    for release in releases:
        spent = spent.compose(release)
    if spent.epsilon(budget.delta) <= budget.epsilon:
        return True  # at its best order: nothing of a plan is adaptive
    from fedsim.privacy import accounting

    return bool(accounting.epsilon(releases, budget.delta, adjacency) <= budget.epsilon)


def _best_measure(opening: Entry, budget: Budget) -> _Measure:
    """Choose how rule 2 measures: so that the first entry, or its plan, fits most often."""
    curve, untruncated, chance = np.zeros(len(ORDERS)), np.zeros(len(ORDERS)), 0.0
    for release, count in _most(opening.plan or opening.spends).items():
        costs = _curves(release, opening.adjacency)
        curve = curve + count * costs[0]
        untruncated = untruncated + count * costs[1]
        chance += count * costs[2]
    best, found = -math.inf, _Measure(0, 0.0)
    for share in _SHARES if chance else _SHARES[:1]:
        limit = np.array(
            [budget.epsilon - _Measure(i, share).offset(budget.delta) for i in range(len(ORDERS))]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            times = limit / np.maximum(untruncated if share else curve, 1e-300)
        if share:
            times = np.minimum(times, share * budget.delta / chance)
        order = int(np.argmax(times))
        if times[order] > best:
            best, found = float(times[order]), _Measure(order, share)
    return found


def _most(spends: Iterable[Spend]) -> Counter[Release]:
    """Return the most that one client has of each release, as if one client had it all."""
    found: Counter[Release] = Counter()
    own: dict[Release, Counter[int]] = {}
    for release, slots, count in _parts(spends):
        if isinstance(slots, slice):
            found[release] += count
        else:
            own.setdefault(release, Counter()).update(dict.fromkeys(slots.tolist(), count))
    for release, clients in own.items():
        found[release] += max(clients.values(), default=0)
    return found


@lru_cache(maxsize=8192)
def _curves(release: Release, adjacency: Adjacency) -> tuple[FloatArray, FloatArray, float]:
    one = Renyi(adjacency).compose(release)
    assert one.curve is not None
    assert one.untruncated is not None
    return one.curve, one.untruncated, one.truncated


def _parts(spends: Iterable[Spend]) -> Iterator[tuple[Release, IntArray | slice, int]]:
    """Return spends as (one release, slots, how often); all slots are a slice."""
    for spend in spends:
        release, count = spend.release, spend.release.count
        if release.mechanism in ONCE:  # its count is inside its noise multiplier
            count = min(count, 1)
        else:
            release = _single(release)
        if count:
            ids = spend.clients
            yield release, slice(None) if ids is None else np.array(ids, np.int64), count


@lru_cache(maxsize=8192)
def _single(release: Release) -> Release:
    return replace(release, count=1)


def _listed(releases: Sequence[Release], counts: Sequence[int]) -> tuple[Release, ...]:
    """Undo `_parts` for one slot; one of `ONCE` that ran twice is there twice."""
    found: list[Release] = []
    for release, count in zip(releases, counts, strict=True):
        if release.mechanism in ONCE:
            found += [release] * count
        elif count:
            found.append(replace(release, count=count))
    return tuple(found)


def _touched(spends: Iterable[Spend], clients: int) -> IntArray:
    ids: list[int] = []
    for spend in spends:
        if spend.clients is None:
            return np.arange(clients + 1)
        ids.extend(spend.clients)
    return np.unique(np.array(ids, np.int64))


def _longer(values: NDArray[T], more: int) -> NDArray[T]:
    return np.concatenate([values, np.repeat(values[-1:], more)])
