"""What a run spends of its data set's privacy budget: between the configuration and the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsim import distributed, user_level
from fedsim.agreement import Charging
from fedsim.anonymized import Charged
from fedsim.clients._private import Private
from fedsim.config.schema import Privacy, RunConfig
from fedsim.crypto import random_key
from fedsim.errors import ConfigError, Problem
from fedsim.federation import Federation, width
from fedsim.privacy import example, local
from fedsim.privacy.accounting import ADJACENCY, worst
from fedsim.privacy.accounts import Accounts, accounts_path
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import Adjacency, Release
from fedsim.privacy.ledger import Entry, Ledger, Receipt, Spend, grouped, ledger_path

__all__ = [
    "Spending",
    "accounts",
    "charged",
    "facts",
    "most_spent",
    "notice",
    "open_ledger",
    "plan_of",
    "settled",
    "summary_of",
]


def settled(federation: Federation) -> Federation:
    """Return the federation with everything that privacy leaves to be found: delta and noise.

    Raises `ConfigError` for a budget that no noise keeps, and for a delta that promises nothing.
    """
    privacy = federation.config.privacy
    if privacy.unit == "none":
        return federation
    members, fewest, whose = _members(federation)
    delta = privacy.delta or members**-1.1
    if delta >= 1 / fewest:
        accepted = f"below 1 / {fewest}, the {whose}: else one may be told all about"
        raise ConfigError([Problem("privacy.delta", delta, accepted)])
    privacy = replace(privacy, delta=delta)
    if privacy.noise_multiplier is None:
        assert privacy.epsilon is not None  # the configuration check has seen to it
        found = _least_noise(federation, privacy.epsilon, delta)
        privacy = replace(privacy, noise_multiplier=found)
    federation = federation.with_privacy(privacy)
    user_level.individual(federation.config)  # refuses what nobody could pay for
    if distributed.is_distributed(federation.config):
        config, size = federation.config, width(federation)
        found_config = distributed.with_least_cohort(config, federation.population, size)
        return federation.with_secure_sum(found_config.secure_sum)
    return federation


def _members(federation: Federation) -> tuple[int, int, str]:
    """Return how many members the unit has, of how many each release tells, and who those are."""
    if federation.config.privacy.unit in ("user", "local"):
        return federation.population, federation.population, "clients"
    sizes = federation.clients.sizes()
    return int(sizes.sum()), int(sizes.max()), "examples of the largest client"


def _least_noise(federation: Federation, budget: float, delta: float) -> float:
    """Return the least noise with which everybody stays within the budget.

    Which of two clients spends more may depend on the noise, so all are looked at with what was
    found for the one that spent most.
    """
    from fedsim.privacy.plan import calibrate_noise

    privacy = federation.config.privacy
    assert privacy.unit != "none"
    adjacency, noise, latest = ADJACENCY[privacy.unit], 1.0, -1
    planned = plan_of(federation.with_privacy(replace(privacy, noise_multiplier=noise)))
    hardest = _hardest(spend.release for spend in planned)
    while True:
        histories = [[_at_noise(federation, release, noise)] for release in hardest]
        place, spent = worst(histories, delta, adjacency) if len(hardest) > 1 else (0, 0.0)
        if place == latest or (latest >= 0 and spent <= budget):
            return noise
        is_first, latest = latest < 0, place

        def with_noise(noise: float, release: Release = hardest[place]) -> list[Release]:
            return [_at_noise(federation, release, noise)]

        try:
            found = calibrate_noise(with_noise, budget, delta, adjacency)
        except ValueError as error:
            raise ConfigError([Problem("privacy.epsilon", budget, str(error))]) from error
        noise = found if is_first else max(noise, found)


def _at_noise(federation: Federation, release: Release, noise: float) -> Release:
    """Return a release with another noise; how fine a lattice is depends on the noise on it."""
    if release.lattice is None:
        return replace(release, noise_multiplier=noise)
    privacy = replace(federation.config.privacy, noise_multiplier=noise)
    try:
        return plan_of(federation.with_privacy(privacy))[0].release
    except ConfigError:  # so much noise that the ring holds nothing else, and hides nothing
        return replace(release, noise_multiplier=0.0)


def _hardest(releases: Iterable[Release]) -> list[Release]:
    """Return the releases that no other one exceeds in both its rate and its count."""
    found: list[Release] = []
    for release in sorted(releases, key=lambda r: (-r.sampling.rate, -r.count)):
        if not found or release.count > found[-1].count:
            found.append(release)
    return found


def most_spent(ledger: Ledger, delta: float, adjacency: Adjacency) -> float:
    """Return the epsilon, at `delta`, of who has spent most, by all runs in a ledger."""
    return worst([own for own, _ in ledger.spent().histories()], delta, adjacency)[1]


def summary_of(ledger: Ledger, privacy: Privacy) -> dict[str, Any]:
    """Return what a finished run says about privacy; plain data."""
    assert privacy.unit != "none"
    adjacency, delta = ADJACENCY[privacy.unit], privacy.delta or 0.0
    return {
        "unit": privacy.unit,
        "adjacency": adjacency,
        "epsilon": most_spent(ledger, delta, adjacency),
        "delta": delta,
        "cap": privacy.epsilon,
        "noise_multiplier": privacy.noise_multiplier,
        "noise": privacy.noise,
        "runs": len(ledger.spent().runs),
    }


def notice(config: RunConfig) -> str:
    """Return what has to be said wherever a run is shown, "" if nothing has."""
    if config.privacy.unit != "none" and config.privacy.noise == "seeded":
        return "seeded: not private. The noise follows from the seed: the run can be repeated."
    return str(getattr(config.local, "notice", ""))


def facts(federation: Federation) -> dict[str, Any]:
    """Return what a run's record says of the mechanism, where the configuration does not."""
    config = federation.config
    if config.privacy.unit != "user":
        return {}
    return user_level.facts(config, federation.population, width(federation))


def plan_of(federation: Federation) -> tuple[Spend, ...]:
    """Return everything that a run of all its rounds releases, for the clients most often in it.

    In the units "example" and "local" that is all rounds: nobody knows who will be asked.
    """
    config, population = federation.config, federation.population
    if config.privacy.unit == "example":
        rounds = config.rounds.count
        return grouped(
            {
                client: replace(release, count=release.count * rounds)
                for client, release in _by_client(federation, range(population)).items()
            }
        )
    if config.privacy.unit == "local":
        return (Spend(replace(_local(federation), count=config.rounds.count)),)
    return (Spend(user_level.plan(config, population, width(federation))),)


def _local(federation: Federation) -> Release:
    """Return what a client that is asked releases in a round."""
    privacy = federation.config.privacy
    assert privacy.noise_multiplier is not None
    return local.release(privacy.mechanism, privacy.noise_multiplier)


def _by_client(federation: Federation, clients: Iterable[int]) -> Mapping[int, Release]:
    """Return what each client releases of its own examples in a round."""
    config, sizes = federation.config, federation.clients.sizes().tolist()
    noise, full_batch = config.privacy.noise_multiplier, config.optimizer.full_batch
    assert noise is not None
    assert isinstance(config.local, Private)
    recipe = config.local.recipe
    by_size: dict[int, Release] = {}
    found = {}
    for client in clients:
        size = sizes[client]
        if size not in by_size:
            by_size[size] = example.release(size, recipe, noise, full_batch=full_batch)
        found[client] = by_size[size]
    return found


def open_ledger(root: Path, federation: Federation) -> Ledger:
    """Return the ledger of a run's data set and unit, in the run store at `root`."""
    meta, unit = federation.clients.meta, federation.config.privacy.unit
    assert unit != "none"
    return Ledger(ledger_path(root, meta.name, meta.sha256, unit))


def accounts(ledger: Ledger, run: str, federation: Federation) -> Accounts | None:
    """Return the accounts of a run's clients, None where only the data set has one."""
    own = user_level.individual(federation.config)
    if own is None:
        return None
    return Accounts(accounts_path(ledger.path, run), own, federation.population)


def charged(config: RunConfig, root: Path) -> Charged:
    """Return where noise on the sums by which clients agree on a cut is written down."""
    settings = config.anonymization
    cap, delta = settings.counts_epsilon, settings.counts_delta or 0.0
    budget = Budget(cap, delta) if cap else None

    def of(dataset: str, sha256: str) -> Charging:
        ledger = Ledger(ledger_path(root, dataset, sha256, "example"))
        return Charging(ledger, f"{config.name}-{random_key().hex()[:8]}", dataset, budget)

    return of


@dataclass(slots=True)
class Spending:
    """Writes down what each round of a run releases, before it does: `fedsim.rounds.Admit`.

    `charge` is its `fedsim.rounds.Charge`.

    `on_receipt` is told of every entry; `federation`'s configuration is `settled`.
    """

    ledger: Ledger
    run: str
    federation: Federation
    on_receipt: Callable[[Receipt], None] = lambda receipt: None
    _latest: int | None = field(default=None, init=False)
    _accounts: Accounts | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Find the clients' own accounts, where they have any."""
        self._accounts = accounts(self.ledger, self.run, self.federation)

    def __call__(self, round: int, cohort: Sequence[int]) -> Sequence[int]:
        """Spend a round and return who may take part, in the order of `cohort`.

        Where clients have budgets of their own, those that have none left stay behind. Raises
        `BudgetExceededError`, `LedgerError` or `SetupError`.
        """
        privacy = self.federation.config.privacy
        entry = replace(
            self._entry(round),
            spends=self._spends(round, cohort),
            plan=() if self.run in self.ledger.spent().runs else plan_of(self.federation),
        )
        budget = Budget(privacy.epsilon, privacy.delta or 0.0) if privacy.epsilon else None
        if privacy.unit == "user" or budget is None:
            self.on_receipt(self.ledger.admit(entry, budget))
            return cohort if self._accounts is None else self._accounts.left(cohort, round)
        receipt = self.ledger.admit_those_left(entry, budget)
        self.on_receipt(receipt)
        left = {client for spend in receipt.entry.spends for client in spend.clients or ()}
        return [client for client in cohort if client in left]

    def charge(self, round: int, norms: Mapping[int, float]) -> None:
        """Charge clients' own accounts, if they have any, before the sum of a round is released.

        `norms`: of what each added to the sum. Raises what `__call__` raises.
        """
        if self._accounts is not None:
            whole = self.federation.config.privacy.clipping_norm
            self._accounts.charge(self._entry(round), {c: n / whole for c, n in norms.items()})

    def _entry(self, round: int) -> Entry:
        privacy = self.federation.config.privacy
        assert privacy.unit != "none"
        return Entry(
            run=self.run,
            round=round,
            unit=privacy.unit,
            dataset=self.federation.clients.meta.name,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            adjacency=ADJACENCY[privacy.unit],
            spends=(),
        )

    def _spends(self, round: int, cohort: Sequence[int]) -> tuple[Spend, ...]:
        federation = self.federation
        privacy, population = federation.config.privacy, federation.population
        if privacy.unit == "example":
            return grouped(_by_client(federation, cohort))
        if privacy.unit == "local":
            return grouped(dict.fromkeys(cohort, _local(federation)))
        config = federation.config
        if user_level.is_correlated(config):
            return self._of_correlated_noise(round)
        if privacy.client_epsilon is not None:  # all rounds are one release: paid for at the first
            return () if self.run in self.ledger.spent().runs else plan_of(federation)
        spend = Spend(user_level.release(config, population, width(federation)))
        if privacy.sampling == "cyclic" and len(cohort) < population:
            spend = replace(spend, clients=tuple(sorted(cohort)))
        return (spend,)

    def _of_correlated_noise(self, round: int) -> tuple[Spend, ...]:
        """Return all rounds at the first one, then only what is released a second time."""
        config, population = self.federation.config, self.federation.population
        if self.run not in self.ledger.spent().runs:
            dimension = width(self.federation)
            return (Spend(user_level.release(config, population, dimension)),)
        if self._latest is None:
            self._latest = max(e.round for e in self.ledger.entries() if e.run == self.run)
        is_repeated, self._latest = round <= self._latest, max(round, self._latest)
        return (Spend(user_level.repeated(config, population)),) if is_repeated else ()
