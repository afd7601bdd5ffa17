"""What entries of a ledger come to: for the client that spent most, and coarsely for all."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fedsim.privacy import accounting
from fedsim.privacy.events import ONCE, Adjacency, Release
from fedsim.privacy.ledger import Entry

__all__ = ["History", "Spends", "histories", "of_client", "spends"]

_MOST_EXACT = 16  # histories that get a privacy loss distribution; the others a Rényi bound


@dataclass(frozen=True, slots=True)
class History:
    """All that some clients released: `clients` of them, `one` for example (None: the unnamed)."""

    releases: tuple[Release, ...]
    clients: int
    one: int | None


@dataclass(frozen=True, slots=True)
class Spends:
    """What clients spent at a delta.

    `worst`: the history with the largest epsilon, and `account`, all about it. `epsilons`: (epsilon
    or a bound on it, clients) of every history, the largest first.
    """

    worst: History
    account: accounting.Account
    epsilons: tuple[tuple[float, int], ...]

    @property
    def epsilon(self) -> float:
        """What no client is above."""
        return self.epsilons[0][0]


def histories(entries: Iterable[Entry], population: int | None = None) -> list[History]:
    """Return each different list of releases that clients have.

    Those who were never named are one history, maybe of no release at all; how many they are
    follows from `population`, else they count as one client where there is anything of them.
    """
    everybody: Counter[Release] = Counter()
    named: dict[int, Counter[Release]] = {}
    for entry in entries:
        for release, clients, count in _applications(entry):
            if clients is None:
                everybody[release] += count
            else:
                for client in clients:
                    named.setdefault(client, Counter())[release] += count
    groups: dict[frozenset[tuple[Release, int]], list[int]] = {}
    for client in sorted(named):
        groups.setdefault(frozenset((named[client] + everybody).items()), []).append(client)
    found = [History(_listed(dict(group)), len(ids), ids[0]) for group, ids in groups.items()]
    rest = 1 if population is None else population - len(named)
    if rest > 0 and (everybody or population is not None):
        found.append(History(_listed(everybody), rest, None))
    return found


def of_client(entry: Entry, client: int | None) -> list[Release]:
    """Return what an entry releases of a client; None is whoever is never named."""
    return [s.release for s in entry.spends if s.clients is None or _has(s.clients, client)]


def _has(clients: Sequence[int], client: int | None) -> bool:
    place = len(clients) if client is None else bisect_left(clients, client)
    return place < len(clients) and clients[place] == client


def spends(
    entries: Iterable[Entry], delta: float, adjacency: Adjacency, population: int | None = None
) -> Spends:
    """Add up what each client released, and find who spent most.

    Rényi bounds put clients in order; loss distributions are made from the top down, until nobody
    below can be above.
    """
    found = histories(entries, population) or [History((), population or 1, None)]
    bounds = sorted(
        ((_bound(each.releases, delta, adjacency), place) for place, each in enumerate(found)),
        key=lambda pair: (-pair[0], pair[1]),
    )
    best: tuple[float, History, accounting.Account] | None = None
    epsilons: list[tuple[float, int]] = []
    for done, (bound, place) in enumerate(bounds):
        history, epsilon = found[place], bound
        if best is None or (done < _MOST_EXACT and bound > best[0]):
            account = accounting.account(history.releases, adjacency)
            epsilon = min(bound, account.epsilon(delta))
            if best is None or epsilon > best[0]:
                best = epsilon, history, account
        epsilons.append((epsilon, history.clients))
    assert best is not None
    return Spends(best[1], best[2], tuple(sorted(epsilons, reverse=True)))


def _bound(releases: Sequence[Release], delta: float, adjacency: Adjacency) -> float:
    spent = accounting.Renyi(adjacency)
    for release in releases:
        spent = spent.compose(release)
    return spent.epsilon(delta)


def _applications(entry: Entry) -> Iterator[tuple[Release, tuple[int, ...] | None, int]]:
    """Return spends as (one application, whose, how many)."""
    for spend in entry.spends:
        release = spend.release
        if release.mechanism in ONCE:  # its count is inside its noise multiplier
            yield release, spend.clients, min(release.count, 1)
        else:
            yield _once(release), spend.clients, release.count


@lru_cache(maxsize=8192)
def _once(release: Release) -> Release:
    return replace(release, count=1)


def _listed(counts: dict[Release, int]) -> tuple[Release, ...]:
    """Return releases with their counts, in an order that depends on nothing else."""
    found: list[Release] = []
    for release, count in sorted(counts.items(), key=lambda pair: repr(pair[0])):
        if release.mechanism in ONCE:
            found += [release] * count
        elif count:
            found.append(replace(release, count=count))
    return tuple(found)
