"""The concepts of a round, as data and as interfaces.

A round is one sentence: a Grid carries the model to a cohort; each client's `LocalAlgorithm` makes
an `Update`; the updates are added up exactly; the `Strategy` steps the server state with the `Sum`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedsim import rng
from fedsim.losses import Loss

__all__ = [
    "ClientContext",
    "ClientRecord",
    "Clipping",
    "LocalAlgorithm",
    "Memo",
    "Optimizer",
    "OptimizerState",
    "Public",
    "Recipe",
    "RoundContext",
    "RoundRecord",
    "State",
    "Strategy",
    "Sum",
    "Task",
    "Transform",
    "Update",
    "broadcast",
    "is_asynchronous",
    "lost_record",
    "per_client",
]

#: What a strategy keeps between rounds: tensors and numbers, so that resume is `save(state)`.
#: `state["model"]` is the global model: a flat float64 tensor.
State = dict[str, Any]

#: What a client keeps between rounds: named tensors.
Memo = dict[str, Tensor]

#: What a client optimizer keeps between steps: by name, one tensor per parameter.
OptimizerState = dict[str, list[Tensor]]

#: (gradients, parameters, global parameters) -> gradients; element by element, so that it works for
#: one client and, with a leading client axis, for many.
Adjust = Callable[[list[Tensor], list[Tensor], list[Tensor]], list[Tensor]]


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
class Public:
    """Inputs that everybody may see (`[public]`), and a module to see them with.

    Whoever uses the module sets its numbers first.
    """

    x: Tensor
    module: nn.Module


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What a strategy may know about the round.

    `cohort` is how many clients were asked, `population` how many there are; 0: not known.
    `clients`: for a strategy that needs "updates", whose they are, in their order. `public`: where
    the experiment has public inputs. `root`: the update that the server's own rows give, for a
    strategy that has `root_rows`.
    """

    seed: int
    round: int
    cohort: int
    population: int = 0
    clients: Sequence[int] = ()
    public: Public | None = None
    root: Tensor | None = None

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


class Optimizer(Protocol):
    """How a client steps (`optimizers/`): element by element, for one client or for many at once.

    With `lead` = 1 the first axis of every tensor is the client.
    """

    lr: float
    #: Whether it wants the whole shard at once, whatever the batch size.
    full_batch: ClassVar[bool]
    #: Whether parameters minus where they began are linear in all gradients so far.
    is_linear: ClassVar[bool]

    def start(self, parameters: list[Tensor], lead: int = 0) -> OptimizerState:
        """Return the state before the first step."""
        ...

    def step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: OptimizerState,
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step in place: parameters and state, never the gradients."""
        ...


@dataclass(frozen=True, slots=True)
class Clipping:
    """What DP-SGD does to a step: each example's gradient is clipped, noise is added to their sum.

    `noise_multiplier` x `clipping_norm` is the noise's standard deviation. Batches are Poisson
    samples, and the sum is divided by the number of examples expected in one. `source`: of batches
    and noise: "torch" is quick and simulates, "chacha20" is what may be accounted. `at_once`: how
    many of a batch's examples are computed at a time, all where it is None. `engine`: what clips:
    our own passes, or Opacus, by gradients or by norms.
    """

    clipping_norm: float
    noise_multiplier: float
    source: Literal["torch", "chacha20"] = "torch"
    at_once: int | None = None
    engine: Literal["fedsim", "opacus", "opacus-ghost"] = "fedsim"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Local training by gradient steps, as data: whoever runs it may run many clients at once.

    `epochs` passes in batches of `batch_size` (0: the whole shard), or exactly `steps` batches.
    `adjust` changes the gradients of a step. `keep_optimizer`: its state lives between rounds.
    With `clipping` it is DP-SGD: what is adjusted then are gradients that have their noise.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    keep_optimizer: bool = False
    adjust: Adjust | None = None
    clipping: Clipping | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a client trains: a resident module that holds the global model, a shard and a loss.

    `loss(output, target)` is the mean over the batch. `l1`, `l2`: see `training.py`. `pixels`: `x`
    is still uint8, and stands for scale x + shift. `extras`: what the strategy sent beside the
    model, flat float32 vectors by name. `public`: where the experiment has public inputs. `meta`:
    what the data look like (`fedsim.data.Meta`), for who builds a module of its own.
    """

    module: nn.Module
    model: Tensor
    x: Tensor
    y: Tensor
    loss: Loss
    optimizer: Optimizer
    l1: float = 0.0
    l2: float = 0.0
    pixels: tuple[float, float] | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    public: Public | None = None
    meta: Any = None


class LocalAlgorithm(Protocol):
    """How a client learns from its shard (`clients/`).

    `recipe` is what `train` does, where that is all there is to it: then the engine may train many
    clients at once. None where only `train` knows. An algorithm that sends lanes declares them as
    `lanes`, (name, size) each, None for the model's size, "public" for the outputs on all public
    inputs. One that keeps a model of each client's own has `personal(memo, model)`, which returns
    it; where the client's examples are needed to find it, or its module is another one than the
    federation's, `adapted(task, memo, ctx)` returns the module that this client would use. One that
    needs public inputs has `needs_public = True`, one that is for some tasks only names their kinds
    (`fedsim.data.Meta.kind`) as `kinds`. One that is half of a method names the strategies of the
    other half as `goes_with`, and they name it.
    """

    @property
    def recipe(self) -> Recipe | None:
        """Return the gradient steps that `train` takes, or None."""
        ...

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; return the update and what to remember until the next time."""
        ...


class Transform(Protocol):
    """What is done to updates before they are added up, which leaves them whole (`transforms/`).

    What makes them shorter is a `fedsim.coding.Coder` or a `fedsim.coding.Reduction`.
    """

    def encode(self, vectors: Tensor) -> Tensor:
        """Return updates [clients, model] as they enter the sum, each by itself."""
        ...


class Strategy(Protocol):
    """What the server does with the sum of the updates, or with each one (`strategies/`).

    A strategy that has `broadcast(state)` sends the vectors that it returns beside the model. One
    that needs public inputs (`ctx.public`) has `needs_public = True`.
    """

    #: "sum": `step` gets a `Sum`. "updates": it gets every `Update`, in client order.
    needs: ClassVar[Literal["sum", "updates"]]

    def init(self, model: Tensor) -> State:
        """Return the state before round 1; `model` is flat float64."""
        ...

    def step(self, state: State, total: Any, ctx: RoundContext) -> State:
        """Return the state after the round; never changes `state` in place."""
        ...


class ClientRecord(NamedTuple):
    """One client in one phase of a round. `lost` is empty, or why its answer does not count.

    A tuple: a round may make thousands of them, and nobody trains while they are made.
    """

    client: int
    phase: Literal["train", "evaluate"] = "train"
    weight: float = 0.0
    metrics: Mapping[str, float] = MappingProxyType({})
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
    `attack/...` are of simulated adversaries.
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


def is_asynchronous(strategy: Any) -> bool:
    """Say whether a strategy steps by whoever arrives, and waits for nobody.

    It then declares `schedule = "asynchronous"`, has a `buffer` (how many arrivals make a step) and
    `scale(staleness)`, what an update counts for that began so many steps ago. `counts_from`: an
    update is the client's model less the one it began with ("start"), or less the newest ("now").
    """
    return getattr(strategy, "schedule", "synchronous") == "asynchronous"


def broadcast(strategy: Any, state: State) -> dict[str, Tensor]:
    """Return what a strategy sends beside the model: flat float32 vectors by name."""
    if not hasattr(strategy, "broadcast"):
        return {}
    return {name: vector.float() for name, vector in strategy.broadcast(state).items()}


def lost_record(
    client: int, phase: Literal["train", "evaluate"], reason: str, *, bytes_down: int
) -> ClientRecord:
    """Return the record of a client that does not count; `reason` may be a whole traceback."""
    lines = reason.strip().splitlines() or [""]
    return ClientRecord(
        client, phase, bytes_down=bytes_down, lost=lines[-1][:500], traceback=reason
    )


def per_client(parameter: Tensor, lead: int) -> Tensor:
    """Return one float64 zero per client, shaped to be multiplied with its parameter."""
    shape = (*parameter.shape[:lead], *[1] * (parameter.dim() - lead))
    return torch.zeros(shape, dtype=torch.float64, device=parameter.device)
