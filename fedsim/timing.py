"""The virtual clock of a run: its devices, what its clients do, and where the clock stands.

Simulated seconds follow from devices and from work that is counted, so they are the same on every
machine and for any number of workers. Where the clock stands is in the server's state, and so in
the checkpoint. The server itself takes no time, and neither do tests of the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedsim import messages, ring, secure_rounds, sending
from fedsim.clock import Rules, Timetable, timetable
from fedsim.core import ClientRecord, State, is_asynchronous
from fedsim.devices import Fleet, Work
from fedsim.errors import ConfigError, Problem, RunFailedError
from fedsim.exact import FixedPoint
from fedsim.federation import Federation
from fedsim.sampling import Phase
from fedsim.work import examples_computed, flops_per_example

__all__ = [
    "Clock",
    "asked",
    "clock_of",
    "facts",
    "gone",
    "is_partial",
    "kept",
    "must_be_same",
    "must_simulate",
    "noted",
    "values",
]

SECONDS, JOULES = "clock/seconds", "clock/joules"  # in the server's state
_TRACE = "devices_sha256"


@dataclass(frozen=True, slots=True)
class Clock:
    """A run's devices and what its clients do; `flops`: of training on one example.

    `secure_bytes`: down and up, of a client in a secure sum; None for a plain one.
    """

    fleet: Fleet
    federation: Federation
    flops: float
    secure_bytes: tuple[int, int] | None = None

    def begins(self, state: State) -> float:
        """Return when the next round begins: once enough clients are there."""
        now_s = float(state.get(SECONDS, 0.0))
        everyone = range(self.federation.population)
        return self.fleet.wait_for(everyone, now_s, self.federation.config.rounds.min_results)

    def online(self, now_s: float) -> list[int] | None:
        """Return who is there; None where all are, always."""
        if self.fleet.when is None:
            return None
        return self.fleet.online(range(self.federation.population), now_s)

    def work(self, client: int, order: messages.Train) -> Work:
        """Return what a client does by an order."""
        config = self.federation.config
        down, up = self.secure_bytes or (
            order.size_bytes,
            sending.payload_bytes(self.federation, order),
        )
        is_whole = config.optimizer.full_batch
        size = int(self.federation.clients.sizes()[client])
        examples = examples_computed(config.local, size, full_batch=is_whole)
        return Work(down, examples, self.flops, up)

    def round(self, ids: Sequence[int], order: messages.Train, begins_s: float) -> Timetable:
        """Return how a round goes in which these clients are asked."""
        rounds = self.federation.config.rounds
        wanted = min(rounds.cohort or self.federation.population, self.federation.population)
        epochs = self.federation.config.local.epochs if is_partial(self.federation.config) else None
        rules = Rules(wanted, rounds.deadline_s, epochs)
        return timetable(self.fleet, {c: self.work(c, order) for c in ids}, begins_s, rules)


def clock_of(federation: Federation, form: FixedPoint) -> Clock | None:
    """Return the clock of a run whose sums have a format; None for a run without, and baselines.

    Raises what opening the trace raises that its devices are read from.
    """
    config = federation.config
    fleet = config.devices.fleet(config.seed) if config.mode == "federated" else None
    if fleet is None:
        return None
    meta = federation.clients.meta
    dtype = torch.int64 if meta.vocabulary else torch.float32
    blank = torch.zeros(2, *meta.input_shape, dtype=dtype, device=federation.device)
    flops = flops_per_example(federation.module, blank)
    is_secure = ring.is_secure(config)
    secure = secure_rounds.payload_bytes(federation, form) if is_secure else None
    return Clock(fleet, federation, flops, secure)


def must_simulate(config: Any) -> None:
    """Open the devices of a simulation; raises what is wrong with them, before anything starts.

    `ConfigError` for an asynchronous strategy without any: nobody would arrive before another.
    """
    fleet = config.devices.fleet(config.seed) if config.mode == "federated" else None
    if fleet is None and config.mode == "federated" and is_asynchronous(config.strategy):
        accepted = "'drawn', 'fedscale' or 'flash': who arrives first is by the virtual clock"
        hint = "Set devices.name=drawn. Between real machines, real arrivals count."
        raise ConfigError([Problem("devices.name", "untimed", accepted, hint)])


def facts(config: Any) -> dict[str, str]:
    """Return what a run's record says of the trace that its devices are read from."""
    fleet = config.devices.fleet(config.seed) if config.mode == "federated" else None
    return {_TRACE: fleet.sha256} if fleet and fleet.sha256 else {}


def must_be_same(config: Any, stored: Mapping[str, Any]) -> None:
    """Raise `RunFailedError` where the trace of devices is not the one that a run began with."""
    if facts(config).get(_TRACE) != stored.get(_TRACE):
        raise RunFailedError(
            "the trace of devices ([devices]) has changed since the run began: its remaining "
            "rounds would not belong to its first ones. Start a new run instead"
        )


def is_partial(config: Any) -> bool:
    """Say whether a client that would be late does fewer epochs: as asked, or its method says so.

    A local algorithm that is made for different amounts of work has `late = "partial"`.
    """
    own = getattr(config.local, "late", "drop") if config.rounds.deadline_s else "drop"
    return (config.rounds.late or own) == "partial"


def asked(config: Any, population: int) -> int:
    """Return how many clients a round asks: more than it counts, with `rounds.over_selection`."""
    cohort = min(int(config.rounds.cohort or population), population)
    return min(math.ceil(round(cohort * float(config.rounds.over_selection), 9)), population)


def kept(state: State, ended_s: float, joules: float) -> State:
    """Return what the server's state keeps of the clock after a round."""
    return {SECONDS: ended_s, JOULES: float(state.get(JOULES, 0.0)) + joules}


def values(state: State) -> dict[str, float]:
    """Return what a round's record says of the clock: since the run began, over all clients."""
    if SECONDS not in state:
        return {}
    return {"simulated/seconds": state[SECONDS], "simulated/joules": state[JOULES]}


def gone(table: Timetable | None) -> dict[int, Phase]:
    """Return in which phase of a secure sum those are lost that the clock does not count.

    Who is away says no key; who is late, or not needed any more, sends no vector.
    """
    if table is None:
        return {}
    return {c: "masked" if c in table.downloads else "keys" for c in table.lost}


def noted(records: Mapping[int, ClientRecord], table: Timetable) -> dict[int, ClientRecord]:
    """Return clients' records with what the clock says of each: how long it was at work."""
    return {
        client: record._replace(metrics={**record.metrics, **_own(table, client)})
        if client in table.seconds
        else record
        for client, record in records.items()
    }


def _own(table: Timetable, client: int) -> dict[str, float]:
    seconds, joules = table.seconds[client], table.joules[client]
    return {"simulated/seconds": seconds, "simulated/joules": joules}
