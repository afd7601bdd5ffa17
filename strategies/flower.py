"""Flower's own strategies, as one of ours.

Any strategy of `flwr.serverapp.strategy` that aggregates client models runs unchanged: it is given
the replies it expects (each client's model and `num-examples`) and asked for `aggregate_train`.
Its moments live in our state between rounds, so a run with it can be resumed like any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.errors import ConfigError, Problem, RunFailedError
from fedsim.registry import suggest

__all__ = ["Flower"]

_KEY = "vector"
_PREFIX = "flower/"
_NOT_OURS = {
    "FedProx": "On the server it is FedAvg; its proximal term is local.name = 'fedprox'.",
    "FedXgbBagging": "It aggregates trees, not vectors.",
    "FedXgbCyclic": "It aggregates trees, not vectors.",
}


@dataclass(frozen=True, slots=True)
class Flower:
    """One of Flower's own strategies.

    `strategy`: its class name in `flwr.serverapp.strategy`; `options`: its arguments.
    Who takes part and how many must answer is up to `rounds`, so Flower's own `fraction_*` and
    `min_*` options change nothing. `QFedAvg` finds each client's loss with `train_loss_key =
    "loss"`. Wrappers around other strategies (Flower's DP ones) and tree strategies are refused.
    """

    strategy: str = "FedAvg"
    options: Mapping[str, Any] = field(default_factory=dict)

    needs: ClassVar = "updates"
    optimum: ClassVar = "mean"

    def __post_init__(self) -> None:
        """Refuse a name or options that Flower does not have."""
        self._make()

    def init(self, model: Tensor) -> State:
        """Start from the initial model; the strategy has no moments yet."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Hand the updates to Flower's `aggregate_train` as replies; take the model it returns.

        Raises `RunFailedError` where the strategy refuses the replies or returns no model.
        """
        from flwr.app import Array, ArrayRecord, ConfigRecord
        from flwr.serverapp.exception import AppExitException

        strategy = self._make()
        _restore(strategy, state)
        model = state["model"].float().numpy()
        # configure_train is where strategies note the current model. With a fraction of 0 it asks
        # no grid for nodes and draws nothing.
        strategy.fraction_train = 0.0
        arrays = ArrayRecord({_KEY: Array(model)})
        strategy.configure_train(ctx.round, arrays, ConfigRecord(), None)
        replies = [_reply(model, update, node) for node, update in enumerate(total, start=1)]
        try:
            aggregated, _ = strategy.aggregate_train(ctx.round, replies)
        except AppExitException as error:
            raise RunFailedError(f"Flower's {self.strategy}, round {ctx.round}: {error}") from error
        if aggregated is None:
            raise RunFailedError(f"Flower's {self.strategy} gave no model in round {ctx.round}")
        new = torch.from_numpy(np.array(aggregated[_KEY].numpy())).double()
        return {"model": new, **_moments(strategy)}

    def _make(self) -> Any:
        from flwr.serverapp import strategy as flower

        known = [
            name
            for name in flower.__all__
            if name not in {"Result", "Strategy", *_NOT_OURS} and not name.startswith("Diff")
        ]
        if self.strategy not in known:
            hint = _NOT_OURS.get(self.strategy) or suggest(self.strategy, known)
            accepted = f"one of {', '.join(known)}"
            raise ConfigError([Problem("strategy.strategy", self.strategy, accepted, hint)])
        try:
            return getattr(flower, self.strategy)(**self.options)
        except (TypeError, ValueError) as error:
            accepted = f"arguments that Flower's {self.strategy} takes ({error})"
            problem = Problem("strategy.options", dict(self.options), accepted)
            raise ConfigError([problem]) from error


def _reply(model: Any, update: Update, node: int) -> Any:
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.app.metadata import Metadata

    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=node,
        dst_node_id=1,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    numbers = {"num-examples": update.weight} | dict(update.metrics)
    arrays = ArrayRecord({_KEY: Array(model + update.vector.numpy())})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(numbers)})
    return Message(content=content, metadata=metadata)


def _moments(strategy: Any) -> dict[str, Tensor]:
    """Read a strategy's arrays: `flower/ATTRIBUTE/KIND/KEY`, by how it keeps them."""
    from flwr.app import ArrayRecord

    found: dict[str, Tensor] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, ArrayRecord):
            items = [("arrays", key, array.numpy()) for key, array in value.items()]
        elif isinstance(value, dict):
            items = [("dict", k, v) for k, v in value.items() if isinstance(v, np.ndarray)]
        elif isinstance(value, list):
            items = [("list", str(i), v) for i, v in enumerate(value) if isinstance(v, np.ndarray)]
        else:
            continue
        for kind, key, array in items:
            found[f"{_PREFIX}{name}/{kind}/{key}"] = torch.from_numpy(np.array(array))
    return found


def _restore(strategy: Any, state: State) -> None:
    """Put back what `_moments` read. Copies: a strategy may change its arrays in place."""
    from flwr.app import Array, ArrayRecord

    held: dict[tuple[str, str], dict[str, Any]] = {}
    for key, tensor in state.items():
        if key.startswith(_PREFIX):
            name, kind, inner = key.removeprefix(_PREFIX).split("/", 2)
            held.setdefault((name, kind), {})[inner] = tensor.numpy().copy()
    for (name, kind), arrays in held.items():
        value: Any = arrays
        if kind == "list":
            value = [arrays[str(i)] for i in range(len(arrays))]
        elif kind == "arrays":
            value = ArrayRecord({inner: Array(array) for inner, array in arrays.items()})
        setattr(strategy, name, value)
