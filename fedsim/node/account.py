"""The node's own privacy ledger: what it has released, as it knows it, and not as it is told.

One ledger for each unit, of everything that this node ever lets out, whatever an experiment, a run
or a data set is called. The epsilons of all units together stay within the policy's maximum: by
basic composition, whatever a policy accepts besides takes from the same budget. What a round costs
follows from the experiment that was approved and from the node's own rows:

- "example", "local": the node adds the noise itself, and is charged for it.
- "user": noise is added to the sum, by all clients together or by the server. The node is charged
  for the noise that was declared, as if everybody knew that it took part; drawn at random it may
  have been, but by the server. With `trust_sampling` it is charged for all rounds that were
  declared, drawn as declared, when it first takes part, since it is not told of the others.

An entry is on the disk before training begins. Whoever is killed after that has spent too much on
paper, and never too little.
"""

import fcntl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedsim import user_level
from fedsim.clients._private import Private
from fedsim.errors import BudgetExceededError, SetupError
from fedsim.federation import Federation, width
from fedsim.files import make_private_folder
from fedsim.node.approval import RefusedError
from fedsim.node.policy import Policy
from fedsim.privacy import accounting, example, local
from fedsim.privacy.accounting import ADJACENCY
from fedsim.privacy.budget import Budget
from fedsim.privacy.events import ONCE, Release, Sampling, Unit
from fedsim.privacy.ledger import Entry, Ledger, Spend

__all__ = ["Account", "ledger_of", "spent"]

_DATA = "rows of this node"
_UNITS: tuple[Unit, ...] = ("user", "example", "local")


def ledger_of(folder: Path, unit: Unit) -> Ledger:
    """Return a node's ledger of a unit; `folder`: of its ledgers."""
    return Ledger(folder / f"{unit}.jsonl")


def spent(folder: Path, delta: float) -> dict[str, float]:
    """Return the epsilon, at `delta`, that a node has spent in each unit it has spent in."""
    found: dict[str, float] = {}
    for unit in _UNITS:
        histories = ledger_of(folder, unit).spent().histories()
        if histories:
            found[unit] = max(
                accounting.epsilon(releases, delta, ADJACENCY[unit]) for releases, _ in histories
            )
    return found


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Have charges in several units wait for each other: each counts what the others have spent.

    Raises `SetupError` where the folder cannot be written.
    """
    path = folder / "charging.lock"
    make_private_folder(folder)
    try:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise SetupError(f"cannot lock {path}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Account:
    """Charges a node for the rounds of one experiment.

    `federation`: as the node sees it, its noise settled. `experiment`: the hash of the text that
    was approved.
    """

    folder: Path
    policy: Policy
    federation: Federation
    client: int
    experiment: str

    def charge(self, round: int, before: Mapping[int, int], time: str) -> None:
        """Write down what a round releases; `before`: how often each round was answered until now.

        Raises `BudgetExceededError` where it would pass the policy's maximum, `RefusedError` for a
        round that the experiment's accounting has no place for: nothing was released then.
        """
        privacy, policy = self.federation.config.privacy, self.policy
        if privacy.unit == "none":
            return
        assert policy.maximum_epsilon is not None  # the policy has seen to it
        assert policy.maximum_delta is not None
        ledger = ledger_of(self.folder, privacy.unit)
        run = f"{self.federation.config.name[:60]}-{self.experiment[:16]}"
        is_first = run not in ledger.spent().runs
        counted = Counter(before)
        release, plan = self._costs(round, counted, is_first=is_first)
        if release is None:
            return
        entry = Entry(
            run=run,
            round=round,
            unit=privacy.unit,
            dataset=_DATA,
            time=time,
            adjacency=ADJACENCY[privacy.unit],
            spends=(Spend(release),),
            plan=(Spend(plan),) if is_first and plan is not None else (),
        )
        most, delta = policy.maximum_epsilon, policy.maximum_delta
        others: dict[str, float] = {}
        try:
            with _one_at_a_time(self.folder):
                others = {u: e for u, e in spent(self.folder, delta).items() if u != privacy.unit}
                if (left := most - sum(others.values())) <= 0:
                    raise BudgetExceededError("other units have spent it")
                ledger.admit(entry, Budget(left, delta))
        except BudgetExceededError:
            told = "".join(f", {own:.4g} of it in unit {unit!r}" for unit, own in others.items())
            raise BudgetExceededError(
                f"round {round} would take this node beyond its maximum_epsilon = {most:g} at "
                f"maximum_delta = {delta:g}, in unit {privacy.unit!r}, by all that it ever "
                f"released{told}"
            ) from None

    def _costs(
        self, round: int, before: Counter[int], *, is_first: bool
    ) -> tuple[Release | None, Release | None]:
        """Return what a round releases, None for what has been paid; and what all rounds do."""
        privacy, rounds = self.federation.config.privacy, self.federation.config.rounds.count
        if privacy.unit != "user":
            own = self._example() if privacy.unit == "example" else self._local()
            return own, replace(own, count=own.count * rounds)
        config, population = self.federation.config, self.federation.population
        if user_level.is_correlated(config):
            return self._correlated(round, before, is_first=is_first)
        dimension = width(self.federation)
        own = user_level.release(config, population, dimension)
        if own.mechanism in ONCE:  # accounts of single clients, which the server keeps
            own = Release("gaussian", privacy.noise_multiplier or 0.0)
            return own, replace(own, count=rounds)
        alone = replace(own, sampling=Sampling())
        if own.sampling.kind == "all" or not self.policy.trust_sampling:
            most = user_level.plan(config, population, dimension).count
            return alone, replace(alone, count=most * alone.count)
        whole = user_level.plan(config, population, dimension)
        if is_first:
            return whole, whole
        return (alone if before[round] else None), None

    def _example(self) -> Release:
        config = self.federation.config
        assert isinstance(config.local, Private)
        assert config.privacy.noise_multiplier is not None
        return example.release(
            int(self.federation.clients.sizes()[self.client]),
            config.local.recipe,
            config.privacy.noise_multiplier,
            full_batch=config.optimizer.full_batch,
        )

    def _local(self) -> Release:
        privacy = self.federation.config.privacy
        assert privacy.noise_multiplier is not None
        return local.release(privacy.mechanism, privacy.noise_multiplier)

    def _correlated(
        self, round: int, before: Counter[int], *, is_first: bool
    ) -> tuple[Release | None, Release | None]:
        """Charge all rounds at the first; a round once more costs the noise that it gets anew.

        The noise is accounted for clients that are asked at most once in so many rounds.
        """
        config, population = self.federation.config, self.federation.population
        separation = population // user_level.expected(config, population)
        near = [own for own in before if before[own] and 0 < abs(own - round) < separation]
        if near:
            raise RefusedError(
                f"round {round} is nearer than {separation} rounds to round {near[0]}, which this "
                "node took part in: the noise of the experiment is not made for that"
            )
        own = user_level.release(config, population, width(self.federation))
        if is_first:
            return own, own
        return (user_level.repeated(config, population) if before[round] else None), None
