"""The concepts of a round, as data and as interfaces.

A round is one sentence: a Grid carries the model to a cohort; each client's `LocalAlgorithm` makes
an `Update`; the updates are added up exactly; the `Strategy` steps the server state with the `Sum`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedsim import rng

__all__ = [
    "ClientContext",
    "ClientRecord",
    "LocalAlgorithm",
    "Memo",
    "RoundContext",
    "RoundRecord",
    "State",
    "Strategy",
    "Sum",
    "Task",
    "Update",
]

#: What a strategy keeps between rounds: tensors and numbers, so that resume is `save(state)`.
#: `state["model"]` is the global model: a flat float64 tensor.
State = dict[str, Any]

#: What a client keeps between rounds: named tensors.
Memo = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Update:
    """What a client sends: `vector` is local minus global, flat float32 of the model's size.

    `weight` is what it counts for (as a rule its number of examples). `metrics` are this client's
    own numbers. `lanes` are extra vectors to be summed beside `vector`, as they are (unweighted).
    """

    vector: Tensor
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    lanes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sum:
    """The exact sum of `count` updates: `vector` = sum of weight x vector, float64."""

    vector: Tensor
    weight: float
    count: int
    lanes: Mapping[str, Tensor] = field(default_factory=dict)

    def mean(self) -> Tensor:
        """Return the weighted mean update, float64."""
        return self.vector / self.weight


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What a strategy may know about the round: `cohort` is how many clients were asked."""

    seed: int
    round: int
    cohort: int

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of this round for `purpose`."""
        return rng.stream(self.seed, purpose, round=self.round)


@dataclass(frozen=True, slots=True)
class ClientContext:
    """What a local algorithm may know: who it is, which round, the learning rate's factor."""

    seed: int
    round: int
    client: int
    lr_factor: float = 1.0

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of this client in this round for `purpose`."""
        return rng.stream(self.seed, purpose, round=self.round, client=self.client)


@dataclass(frozen=True, slots=True)
class Task:
    """What a client trains: a resident module that holds the global model, a shard and a loss.

    `loss(output, target)` is the mean over the batch. `optimizer(parameters, lr_factor)` makes a
    torch optimizer; with `full_batch` it wants the whole shard at once, whatever the batch size.
    `l1`, `l2`: see `training.py`.
    """

    module: nn.Module
    model: Tensor
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[Sequence[nn.Parameter], float], torch.optim.Optimizer]
    full_batch: bool = False
    l1: float = 0.0
    l2: float = 0.0


class LocalAlgorithm(Protocol):
    """How a client learns from its shard (`clients/`)."""

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; return the update and what to remember until the next time."""
        ...


class Strategy(Protocol):
    """What the server does with the sum of the updates, or with each one (`strategies/`)."""

    #: "sum": `step` gets a `Sum`. "updates": it gets every `Update`, in client order.
    needs: ClassVar[Literal["sum", "updates"]]

    def init(self, model: Tensor) -> State:
        """Return the state before round 1; `model` is flat float64."""
        ...

    def step(self, state: State, total: Any, ctx: RoundContext) -> State:
        """Return the state after the round; never changes `state` in place."""
        ...


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One client in one phase of a round. `lost` is empty, or why its answer does not count."""

    client: int
    phase: Literal["train", "evaluate"] = "train"
    weight: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    real_seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    lost: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round as it was; every reader (progress, store, report) reads these and nothing else.

    `metrics` keys: `train/...` are weighted means over the clients that trained, `test/...` are of
    the server's own test set, `federated/...` are over the clients' held-out examples, with
    `federated/NAME/worst_decile` and `federated/NAME/variance` as the spread over clients.
    """

    round: int
    metrics: Mapping[str, float]
    clients: Sequence[ClientRecord]
    cohort: int
    real_seconds: float
    seconds: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    model_sha256: str

    @property
    def lost(self) -> int:
        """How many of the cohort did not count."""
        return sum(1 for client in self.clients if client.lost)
