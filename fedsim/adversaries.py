"""The adversaries of a simulation: who is malicious, and what becomes of rows and updates.

Who is malicious is drawn by the seed, for the whole run. Rows are poisoned where a malicious client
reads them; its update is changed before the transform, so that what bounds everybody's update
(`transform.name=clip`) bounds this one; what an omniscient adversary sends is made where the server
has all updates of a round. Lanes, weights and metrics of a malicious client stay as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim import rng
from fedsim.attacks._seen import Seen
from fedsim.attacks.honest import Honest
from fedsim.config.schema import RunConfig
from fedsim.core import ClientContext, State, Update
from fedsim.data import ClientData, Examples, Meta
from fedsim.errors import ConfigError, Problem
from fedsim.registry import name_of
from fedsim.strategies._robust import inner_rule
from fedsim.transforms.clip import Clip

__all__ = [
    "NOBODY",
    "Adversaries",
    "Poisoned",
    "adversaries_of",
    "crafted",
    "facts",
    "is_omniscient",
    "must_be_simulated",
    "poisoned",
]

_STATE = "attack/"  # what an adversary remembers, in the server's state


@dataclass(frozen=True, slots=True)
class Adversaries:
    """`attack` is made by `clients`, in cohorts of `cohort`; `seed` is the run's."""

    attack: Any
    clients: frozenset[int]
    cohort: int = 0
    seed: int = 0

    @property
    def changes_updates(self) -> bool:
        """Say whether a malicious client sends something else than its training gave."""
        return hasattr(self.attack, "send")

    def sent(self, update: Update, ctx: ClientContext) -> Update:
        """Return what a client sends: its update, unless it is malicious."""
        if not self.changes_updates or ctx.client not in self.clients:
            return update
        vector = self.attack.send(update.vector, self.cohort, ctx.rng("attack"))
        return replace(update, vector=vector)


#: All clients are honest.
NOBODY = Adversaries(Honest(), frozenset())


@dataclass(frozen=True)
class Poisoned:
    """Clients of which some train on other rows than they have; what they are tested on stays."""

    inner: ClientData
    adversaries: Adversaries

    @property
    def meta(self) -> Meta:
        """Describe the data."""
        return self.inner.meta

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return self.inner.clients

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of every client."""
        return self.inner.sizes()

    def train(self, client: int) -> Examples:
        """Return one client's training examples, poisoned where it is malicious."""
        shard, own = self.inner.train(client), self.adversaries
        if client not in own.clients:
            return shard
        stream = rng.stream(own.seed, "poison", client=client)
        poison: Examples = own.attack.poison(shard, self.meta, stream)
        return poison

    def held_out(self, client: int) -> Examples:
        """Return the examples one client is evaluated on."""
        return self.inner.held_out(client)

    def test(self) -> Examples:
        """Return the server's test set."""
        return self.inner.test()

    @cached_property
    def triggered(self) -> Examples | None:
        """Return the test rows that a backdoor's success is measured on; None without one."""
        attack = self.adversaries.attack
        return attack.measured_on(self.test()) if hasattr(attack, "measured_on") else None


def adversaries_of(config: RunConfig, population: int) -> Adversaries:
    """Return who is malicious of a population.

    Raises `ConfigError` for clients that do not exist, and for so few that there is nobody.
    """
    attack = config.attack
    if isinstance(attack, Honest):
        return NOBODY
    if strange := [client for client in attack.clients if not 0 <= client < population]:
        raise ConfigError([Problem("attack.clients", strange, f"clients 0 to {population - 1}")])
    chosen = attack.clients
    if not chosen:
        count = math.floor(attack.fraction * population + 0.5)
        if not 0 < count < population:
            accepted = f"a part of {population} clients that makes at least one, and not all"
            raise ConfigError([Problem("attack.fraction", attack.fraction, accepted)])
        stream = rng.stream(config.seed, "malicious clients")
        chosen = stream.choice(population, count, replace=False).tolist()
    cohort = min(config.rounds.cohort or population, population)
    return Adversaries(attack, frozenset(chosen), cohort, config.seed)


def poisoned(clients: ClientData, adversaries: Adversaries) -> tuple[ClientData, Adversaries]:
    """Return the clients with the rows that malicious ones train on, and the attack as it is made.

    Raises `ConfigError` for data that the attack cannot be made on.
    """
    attack = adversaries.attack
    if not hasattr(attack, "poison"):
        return clients, adversaries
    if reason := attack.unfit(clients.meta):
        raise ConfigError([Problem("attack.name", name_of("attacks", attack), reason)])
    if hasattr(attack, "prepared"):
        adversaries = replace(adversaries, attack=attack.prepared(clients.test()))
    return Poisoned(clients, adversaries), adversaries


def is_omniscient(config: RunConfig) -> bool:
    """Say whether what malicious clients send is made from the updates of others."""
    return hasattr(config.attack, "craft")


def crafted(
    config: RunConfig,
    adversaries: Adversaries,
    updates: Mapping[int, Update],
    state: State,
    stream: np.random.Generator,
) -> tuple[dict[int, Update], State]:
    """Return a round's updates with those of malicious clients replaced, and what to remember.

    `state`: the server's. Where a round has only malicious clients, or none, nothing is replaced.
    """
    memory = {k.removeprefix(_STATE): v for k, v in state.items() if k.startswith(_STATE)}
    own = [client for client in sorted(updates) if client in adversaries.clients]
    honest = [client for client in sorted(updates) if client not in adversaries.clients]
    if own and honest:
        rows = {client: updates[client].vector.double() for client in updates}
        seen = Seen(
            torch.stack([rows[client] for client in honest]),
            torch.stack([rows[client] for client in own]),
            honest,
        )
        vector, memory = adversaries.attack.craft(seen, memory, stream)
        if isinstance(config.transform, Clip):  # a server that bounds updates bounds this one too
            vector = config.transform.encode(vector.unsqueeze(0))[0]
        updates = {**updates} | {
            client: replace(updates[client], vector=vector.float()) for client in own
        }
    return dict(updates), {_STATE + name: value for name, value in memory.items()}


def facts(config: RunConfig, adversaries: Adversaries, population: int) -> dict[str, Any]:
    """Return what a run's record says of its adversaries; nothing where all are honest."""
    attack = adversaries.attack
    if isinstance(attack, Honest):
        return {}
    return {
        "name": name_of("attacks", attack),
        "needs": attack.needs,
        "clients": sorted(adversaries.clients),
        "population": population,
        "strategy": name_of("strategies", config.strategy),
        "f": _borne(config.strategy, population),
        "target": getattr(attack, "target", None) if hasattr(attack, "measured_on") else None,
    }


def _borne(strategy: Any, population: int) -> int | None:
    """Return how many malicious clients of a round a strategy is set to bear; None: no promise."""
    if hasattr(strategy, "root_rows"):  # it trusts its own rows alone
        return population
    if hasattr(strategy, "rule"):
        strategy = inner_rule(strategy.rule, strategy.options)
    return getattr(strategy, "f", None) if hasattr(strategy, "least") else None


def must_be_simulated(config: RunConfig) -> None:
    """Raise `ConfigError` for an attack where clients are real."""
    if not isinstance(config.attack, Honest):
        name = name_of("attacks", config.attack)
        accepted = "'honest' in a federation of real clients: attacks are simulated"
        raise ConfigError([Problem("attack.name", name, accepted, "Use fedsim run.")])
