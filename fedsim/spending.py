"""What a run spends of its data set's privacy budget: between the configuration and the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedsim.config.schema import Privacy, RunConfig
from fedsim.errors import ConfigError, Problem
from fedsim.federation import Federation
from fedsim.privacy import central
from fedsim.privacy.accounting import ADJACENCY
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Entry, Ledger, Receipt, Spend, ledger_path

__all__ = ["Spending", "notice", "open_ledger", "plan_of", "settled"]


def settled(config: RunConfig, population: int) -> RunConfig:
    """Return the configuration with everything that privacy leaves to be found: delta and noise.

    Raises `ConfigError` for a budget that no noise keeps, and for a delta that promises nothing.
    """
    privacy = config.privacy
    if privacy.unit == "none":
        return config
    delta = privacy.delta or population**-1.1
    if delta >= 1 / population:
        accepted = f"below 1 / {population}, the clients: else one client may be told all about"
        raise ConfigError([Problem("privacy.delta", delta, accepted)])
    privacy = replace(privacy, delta=delta)
    if privacy.noise_multiplier is None:
        assert privacy.epsilon is not None  # the configuration check has seen to it
        privacy = replace(privacy, noise_multiplier=_least_noise(config, population, delta))
    return replace(config, privacy=privacy)


def _least_noise(config: RunConfig, population: int, delta: float) -> float:
    from fedsim.privacy.plan import calibrate_noise

    def releases(noise_multiplier: float) -> list[Release]:
        privacy = replace(config.privacy, noise_multiplier=noise_multiplier)
        return [spend.release for spend in plan_of(replace(config, privacy=privacy), population)]

    epsilon, unit = config.privacy.epsilon or 0.0, config.privacy.unit
    assert unit != "none"
    try:
        return calibrate_noise(releases, epsilon, delta, ADJACENCY[unit])
    except ValueError as error:
        raise ConfigError([Problem("privacy.epsilon", epsilon, str(error))]) from error


def notice(config: RunConfig) -> str:
    """Return what has to be said wherever a run is shown, "" if nothing has."""
    if config.privacy.unit != "none" and config.privacy.noise == "seeded":
        return "seeded: not private. The noise follows from the seed: the run can be repeated."
    return str(getattr(config.local, "notice", ""))


def plan_of(config: RunConfig, population: int) -> tuple[Spend, ...]:
    """Return everything that a run of all its rounds releases, for the client most often in it."""
    privacy, rounds = config.privacy, config.rounds
    cohort = min(rounds.cohort or population, population)
    count = central.participations(privacy.sampling, population, cohort, rounds.count)
    return (Spend(replace(_release(privacy, population, cohort), count=count)),)


def _release(privacy: Privacy, population: int, cohort: int) -> Release:
    assert privacy.noise_multiplier is not None
    return central.release(privacy.sampling, population, cohort, privacy.noise_multiplier)


def open_ledger(root: Path, federation: Federation) -> Ledger:
    """Return the ledger of a run's data set and unit, in the run store at `root`."""
    meta, unit = federation.clients.meta, federation.config.privacy.unit
    assert unit != "none"
    return Ledger(ledger_path(root, meta.name, meta.sha256, unit))


@dataclass(slots=True)
class Spending:
    """Writes down what each round of a run releases, before it does: `fedsim.rounds.Admit`.

    `on_receipt` is told of every entry; `federation`'s configuration is `settled`.
    """

    ledger: Ledger
    run: str
    federation: Federation
    on_receipt: Callable[[Receipt], None] = lambda receipt: None

    def __call__(self, round: int, cohort: Sequence[int]) -> Sequence[int]:
        """Spend a round; raises `BudgetExceededError`, `LedgerError` or `SetupError`."""
        config, population = self.federation.config, self.federation.population
        privacy, expected = config.privacy, config.rounds.cohort or population
        assert privacy.unit != "none"
        spend = Spend(_release(privacy, population, min(expected, population)))
        if privacy.sampling == "cyclic" and len(cohort) < population:
            spend = replace(spend, clients=tuple(sorted(cohort)))
        entry = Entry(
            run=self.run,
            round=round,
            unit=privacy.unit,
            dataset=self.federation.clients.meta.name,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            adjacency=ADJACENCY[privacy.unit],
            spends=(spend,),
            plan=() if self.run in self.ledger.spent().runs else plan_of(config, population),
        )
        budget = Budget(privacy.epsilon, privacy.delta or 0.0) if privacy.epsilon else None
        self.on_receipt(self.ledger.admit(entry, budget))
        return cohort
