"""Flower's own strategies, as one of ours.

Any strategy of `flwr.serverapp.strategy` that aggregates train replies runs unchanged: it is given
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


@dataclass(frozen=True, slots=True)
class Flower:
    """`strategy`: its class name in `flwr.serverapp.strategy`; `options`: its arguments.

    `qfedavg` and others that weigh by the loss find each client's numbers under their own names
    (`train_loss_key = "loss"`).
    """

    strategy: str = "FedAvg"
    options: Mapping[str, Any] = field(default_factory=dict)

    needs: ClassVar = "updates"

    def __post_init__(self) -> None:
        """Refuse a name or options that Flower does not have."""
        self._make()

    def init(self, model: Tensor) -> State:
        """Start from the initial model; the strategy has no moments yet."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Hand the updates to Flower's `aggregate_train` as replies; take the model it returns."""
        from flwr.app import Array, ArrayRecord, ConfigRecord

        strategy = self._make()
        _restore(strategy, state)
        model = state["model"].float().numpy()
        # configure_train is where strategies note the current model; its messages are not sent.
        arrays = ArrayRecord({_KEY: Array(model)})
        nodes = _Nodes(max(len(total), 2))
        list(strategy.configure_train(ctx.round, arrays, ConfigRecord(), nodes))
        replies = [_reply(model, update, node) for node, update in enumerate(total, start=1)]
        aggregated, _ = strategy.aggregate_train(ctx.round, replies)
        if aggregated is None:
            raise RunFailedError(f"Flower's {self.strategy} gave no model in round {ctx.round}")
        new = torch.from_numpy(np.array(aggregated[_KEY].numpy())).double()
        return {"model": new, **_moments(strategy)}

    def _make(self) -> Any:
        from flwr.serverapp import strategy as flower

        known = [name for name in flower.__all__ if name not in ("Result", "Strategy")]
        if self.strategy not in known:
            hint = suggest(self.strategy, known)
            accepted = f"one of {', '.join(known)}"
            raise ConfigError([Problem("strategy.strategy", self.strategy, accepted, hint)])
        try:
            return getattr(flower, self.strategy)(**self.options)
        except (TypeError, ValueError) as error:
            accepted = f"arguments that Flower's {self.strategy} takes ({error})"
            raise ConfigError([Problem("strategy.options", dict(self.options), accepted)]) from error


class _Nodes:
    """The only thing a Flower strategy asks a grid for while it configures a round."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> range:
        return range(1, self.count + 1)


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
    """Put back what `_moments` read."""
    from flwr.app import Array, ArrayRecord

    for key, tensor in state.items():
        if not key.startswith(_PREFIX):
            continue
        name, kind, inner = key.removeprefix(_PREFIX).split("/", 2)
        array = tensor.numpy()
        held = getattr(strategy, name)
        if kind == "list":
            setattr(strategy, name, [*(held or []), array])
        elif kind == "dict":
            setattr(strategy, name, {**(held or {}), inner: array})
        else:
            setattr(strategy, name, ArrayRecord({**(held or {}), inner: Array(array)}))
