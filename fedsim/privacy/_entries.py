"""Entries of a ledger as values and as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import lt
from typing import Any, get_args

from fedsim.privacy.events import Adjacency, Release, Unit

__all__ = ["Entry", "Spend", "canonical", "entry_from_dict", "grouped", "to_dict"]

_SHORT = 32  # runs of clients that are worth a look whether they were read before


@dataclass(frozen=True, slots=True)
class Spend:
    """A release and whose data it is of: `clients`, ascending; None is everybody's."""

    release: Release
    clients: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check that clients are ascending and not negative."""
        ids = self.clients
        if ids and (ids[0] < 0 or not all(map(lt, ids, ids[1:]))):
            raise ValueError("the clients of a spend are not negative, and ascend")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a run is about to release in a round; written down before any client trains.

    `time`: UTC, ISO 8601. `plan`: in a run's first entry, everything the run means to release, this
    round included, where that is fixed in advance: it then may be calibrated by PLD (`budget.py`).
    """

    run: str
    round: int
    unit: Unit
    dataset: str
    time: str
    adjacency: Adjacency
    spends: tuple[Spend, ...]
    plan: tuple[Spend, ...] = ()

    def __post_init__(self) -> None:
        """Check that unit and adjacency are known."""
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit {self.unit!r}, not one of {get_args(Unit)}")
        if self.adjacency not in get_args(Adjacency):
            raise ValueError(f"adjacency {self.adjacency!r}, not one of {get_args(Adjacency)}")


def grouped(releases: Mapping[int, Release]) -> tuple[Spend, ...]:
    """Return spends, one for each different release, of releases by client.

    >>> one, two = Release(noise_multiplier=1.0), Release(noise_multiplier=2.0)
    >>> [spend.clients for spend in grouped({3: one, 1: one, 2: two})]
    [(1, 3), (2,)]
    """
    found: dict[Release, list[int]] = {}
    for client in sorted(releases):
        found.setdefault(releases[client], []).append(client)
    return tuple(Spend(release, tuple(clients)) for release, clients in found.items())


def canonical(entry: Entry) -> bytes:
    """Return an entry as the JSON that is hashed: keys sorted, no spaces, ASCII.

    Raises `ValueError` for numbers that JSON does not have.
    """
    plain = to_dict(entry)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def to_dict(entry: Entry) -> dict[str, Any]:
    """Return plain data for JSON: without `plan` where there is none."""
    plain: dict[str, Any] = {
        key: getattr(entry, key) for key in ("run", "round", "unit", "dataset", "time", "adjacency")
    }
    plain["spends"] = [_spend_to_dict(spend) for spend in entry.spends]
    return plain | ({"plan": [_spend_to_dict(spend) for spend in entry.plan]} if entry.plan else {})


def entry_from_dict(plain: Mapping[str, Any]) -> Entry:
    """Read what `to_dict` wrote. Raises `ValueError`, `TypeError` or `KeyError` for others."""
    spends = {key: tuple(map(_spend, plain.get(key, ()))) for key in ("spends", "plan")}
    return Entry(**{**plain, **spends})


def _spend_to_dict(spend: Spend) -> dict[str, Any]:
    release = {"release": spend.release.to_dict()}
    return release if spend.clients is None else release | {"clients": _runs(spend.clients)}


def _spend(plain: Mapping[str, Any]) -> Spend:
    release, clients = _release(plain["release"]), plain.get("clients")
    if clients is None or len(clients) > _SHORT:
        return Spend(release, None if clients is None else _ids(clients))
    return _spend_of(release, tuple(clients))


@lru_cache(maxsize=1024)  # where everybody takes part, round after round
def _spend_of(release: Release, clients: tuple[int, ...]) -> Spend:
    return Spend(release, _ids(clients))


def _release(plain: Mapping[str, Any]) -> Release:
    return _release_of(
        tuple((k, tuple(v.items()) if isinstance(v, dict) else v) for k, v in plain.items())
    )


@lru_cache(maxsize=1 << 16)  # a ledger has few different ones, many times
def _release_of(plain: tuple[tuple[str, Any], ...]) -> Release:
    return Release.from_dict({k: dict(v) if isinstance(v, tuple) else v for k, v in plain})


def _runs(clients: Sequence[int]) -> list[int]:
    """Shorten ascending client ids: -n stands for all up to n.

    >>> _runs([3, 7, 8, 9, 10, 12])
    [3, 7, -10, 12]
    """
    found: list[int] = []
    for client in clients:
        if not found or client != abs(found[-1]) + 1:
            found.append(int(client))
        elif found[-1] < 0:
            found[-1] = -int(client)
        else:
            found.append(-int(client))
    return found


def _ids(runs: Iterable[int]) -> tuple[int, ...]:
    """Undo `_runs`.

    >>> _ids([3, 7, -10, 12])
    (3, 7, 8, 9, 10, 12)
    """
    runs, start = list(runs), 0
    found: list[int] = []
    for end in [i for i, number in enumerate(runs) if number < 0]:
        found += runs[start:end]
        found += range(found[-1] + 1, 1 - runs[end])
        start = end + 1
    return tuple(found + runs[start:])
