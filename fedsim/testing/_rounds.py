"""Whole rounds of tiny federations, in this process: what the contract tests run parts in."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict

from fedsim import config as configuration
from fedsim import registry, spending
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.config.schema import RunConfig
from fedsim.core import RoundRecord, is_asynchronous
from fedsim.engine.blocks import Population
from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import ConfigError
from fedsim.federation import Federation, Places, build, from_text, to_text
from fedsim.ring import is_masked
from fedsim.rounds import ServerState, run_rounds, start_state
from fedsim.testing._parts import cohort_of, half_of, local_of, strategy_of

__all__ = ["Pair", "Run", "flags_of", "pairs", "with_settings"]

#: Tried in this order: some local algorithms refuse a model that has nothing for them to keep.
_MODELS: Sequence[Mapping[str, Any]] = (
    {"name": "mlp", "hidden": [5]},
    {"name": "fedsim.testing._networks:normalized"},
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A strategy and a local algorithm that go together."""

    strategy: str
    local: str

    def __str__(self) -> str:
        return f"{self.strategy}+{self.local}"

    def content(self, **sections: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tiny experiment with both, and a model that they train."""
        return {**_content(self), **sections}


def pairs() -> list[Pair]:
    """Return every strategy and every local algorithm at least once; halves with each other."""
    found = [
        Pair(name, half_of(registry.load("strategies", name), "clients", "sgd"))
        for name in registry.names("strategies")
    ]
    found += [
        Pair(half_of(registry.load("clients", name), "strategies", "fedavg"), name)
        for name in registry.names("clients")
        if name != "local-only"  # the baseline, which is a mode: no experiment names it
    ]
    return list(dict.fromkeys(found))


@cache
def _content(pair: Pair) -> dict[str, Any]:
    strategy, local = strategy_of(pair.strategy), local_of(pair.local)
    base: dict[str, Any] = {
        "name": "contract",
        "seed": 3,
        "data": {
            "name": "synthetic",
            "clients": cohort_of(strategy),
            "examples": 12,
            "features": 6,
            "classes": 3,
            "model_skew": 0.5,
            "test_examples": 40,
        },
        "local": {"name": pair.local, **getattr(local, "contract", {})},
        "strategy": {"name": pair.strategy, **getattr(strategy, "contract", {})},
        "rounds": {"count": 2},
        "evaluation": {"central_every": 0, "federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident", "block_size": 3},
    }
    if getattr(strategy, "needs_public", False) or getattr(local, "needs_public", False):
        base["public"] = {"name": "held-out", "rows": 8}
    if is_asynchronous(strategy):
        base["devices"] = {"name": "drawn"}
    for model in _MODELS:
        try:
            build(configuration.load({**base, "model": model}, (), {}))
        except ConfigError as error:
            refused = error
        else:
            return {**base, "model": model}
    raise refused


@dataclass(slots=True)
class Run:
    """A run of an experiment in this process: `go` goes on, `save` and `load` are a resume.

    `lost`: clients that never answer.
    """

    content: Mapping[str, Any]
    lost: Collection[int] = ()
    federation: Federation = field(init=False)
    state: ServerState = field(init=False)
    records: list[RoundRecord] = field(default_factory=list)
    _grid: InProcessGrid = field(init=False)
    _told: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        config = configuration.load(self.content, (), {})
        given = build(config)
        if config.privacy.unit != "none":
            given = spending.settled(given)
        text = to_text(_as_given(config, given.config), Places())
        self.federation = from_text(text)
        self.state = start_state(self.federation)
        size = config.engine.block_size
        self._told = {"experiment": text, "tier": config.engine.tier, "at-once": size or 0}
        if is_masked(config):
            self._told[SECRET] = "ab" * 32
        population = Population(self.federation.clients.clients, self._told)
        self._grid = InProcessGrid(OURS.open(self._told), population, size=size)

    def go(self, rounds: int) -> "Run":
        """Run some rounds more; return the run."""
        directory = simulated_directory(self._told, self.federation.config)
        carrier = _Losing(self._grid, self.lost)
        nodes = self._grid.population.nodes
        stream = run_rounds(carrier, nodes, self.federation, self.state, directory=directory)
        for record, state in stream:
            self.records.append(record)
            self.state = state
            rounds -= 1
            if not rounds:
                break
        return self

    def save(self, path: Path) -> None:
        """Write a checkpoint: the state, and what clients remember."""
        save_checkpoint(path, Checkpoint(self.state.round, self.state.strategy, self._grid.states))

    def load(self, path: Path) -> "Run":
        """Go on from a checkpoint; return the run."""
        found = load_checkpoint(path)
        assert found is not None
        self.state = ServerState(found.round, found.state)
        self._grid.states.update(found.memos)
        return self

    @property
    def models(self) -> list[str]:
        """The hash of the model after each round."""
        return [record.model_sha256 for record in self.records]


def _as_given(config: RunConfig, settled: RunConfig) -> RunConfig:
    """Return the configuration with the noise that was found for it."""
    return replace(config, privacy=settled.privacy, secure_sum=settled.secure_sum)


@dataclass(frozen=True, slots=True)
class _Losing:
    """A carrier that some clients' answers never come through."""

    grid: InProcessGrid
    lost: Collection[int]

    def broadcast(
        self, content: RecordDict, nodes: Iterable[int], kind: str, **options: Any
    ) -> list[Message]:
        present = [node for node in nodes if node - 1 not in self.lost]
        return list(self.grid.broadcast(content, present, kind, **options)) if present else []

    def scatter(self, contents: Any, kind: str, **options: Any) -> list[Message]:
        return list(self.grid.scatter(contents, kind, **options))


def with_settings(pair: Pair, flag: str) -> dict[str, Any]:
    """Return the pair's experiment with what a flag of its legality stands for."""
    if flag == "secure_sum":
        return pair.content(secure_sum={"name": "ideal"})
    return pair.content(privacy={"unit": flag, "noise_multiplier": 1.0, "noise": "seeded"})


def flags_of(pair: Pair) -> dict[str, bool]:
    """Return what `fedsim strategies list` and `fedsim clients list` say that a pair goes with."""
    both = [
        configuration.legality("strategies", pair.strategy),
        configuration.legality("clients", pair.local),
    ]
    shared = ("secure_sum", "user", "example", "local")
    return {flag: all(flags[flag].is_legal for flags in both) for flag in shared}
