"""The bridge to Flower: our strategies as Flower `Strategy` objects, our rounds as a `ServerApp`.

The other directions are elsewhere: Flower's strategies as ours in `strategies/flower.py`, our
client as a Flower `ClientApp` in `clients/app.py`.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import exact
from fedsim.config.schema import RunConfig
from fedsim.core import RoundContext, RoundRecord, State, Update
from fedsim.errors import ConfigError, Problem, RunFailedError
from fedsim.federation import Federation, from_text
from fedsim.rounds import ServerState, run_rounds, start_state
from fedsim.secagg.identities import Directory

__all__ = ["FedsimStrategy", "FlowerCarrier", "discover", "server_app"]

_QUERY = "query"
_NUM_EXAMPLES = "num-examples"


class FedsimStrategy(FlowerStrategy):  # type: ignore[misc]
    """One of our strategies behind Flower's interface.

    `FedsimStrategy(FedAdam()).start(grid, ...)` in any ServerApp.

    It speaks what every Flower app speaks: `arrays` and `config` go out, `arrays` and a
    `MetricRecord` with `num-examples` come back. All nodes are asked every round. Updates are added
    exactly; a client that sends NaN, infinity or other shapes does not count. The strategy's state
    is `state`, ready to be saved.
    """

    def __init__(
        self, strategy: Any, *, seed: int = 0, max_abs: float = 1024.0, max_weight: float = 2.0**20
    ) -> None:
        """`strategy`: any part of `fedsim.strategies`; the bounds are those of `fedsim.exact`."""
        self.strategy = strategy
        self.state: State | None = None
        self._seed = seed
        self._bounds = max_abs, max_weight
        self._layout: list[tuple[str, torch.Size]] = []
        self._asked = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model to every node."""
        model = arrays.to_torch_state_dict()
        self._layout = [(name, tensor.shape) for name, tensor in model.items()]
        if self.state is None:
            self.state = self.strategy.init(_flat(model).double())
        return self._to_all(server_round, arrays, config, grid, "train")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step our strategy with the exact sum of the updates; None where nobody answered."""
        if self.state is None:
            raise RuntimeError("aggregate_train before configure_train: there is no model yet")
        model = self.state["model"].float()
        form = exact.fixed_point(
            model.numel(),
            max_abs=self._bounds[0],
            max_weight=self._bounds[1],
            cohort=max(self._asked, 1),
        )
        updates, sums = self._updates(replies, model, form)
        if not updates:
            return None, None
        context = RoundContext(self._seed, server_round, self._asked)
        is_sum = self.strategy.needs == "sum"
        total: Any = exact.decode(exact.add(sums), form) if is_sum else updates
        self.state = self.strategy.step(self.state, total, context)
        parts = self.state["model"].float().split([shape.numel() for _, shape in self._layout])
        named = zip(self._layout, parts, strict=True)
        arrays = {name: Array(part.view(shape).numpy()) for (name, shape), part in named}
        return ArrayRecord(arrays), _mean_metrics(updates)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model to every node."""
        return self._to_all(server_round, arrays, config, grid, "evaluate")

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the metrics' means, weighted by the numbers of examples."""
        records = [_metrics(reply) for reply in replies if not reply.has_error()]
        updates = [Update(torch.zeros(0), float(r.pop(_NUM_EXAMPLES)), r) for r in records]
        return _mean_metrics(updates) if updates else None

    def summary(self) -> None:
        """Log the strategy."""
        from flwr.supercore import log

        log(20, "\t└──> %r of fedsim", self.strategy)

    def _to_all(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, kind: str
    ) -> list[Message]:
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        nodes = sorted(grid.get_node_ids())
        self._asked = len(nodes)
        return [Message(content, node, kind, group_id=str(server_round)) for node in nodes]

    def _updates(
        self, replies: Iterable[Message], model: torch.Tensor, form: exact.FixedPoint
    ) -> tuple[list[Update], list[exact.PartialSum]]:
        updates, sums = [], []
        answered = [reply for reply in replies if not reply.has_error()]
        for reply in sorted(answered, key=lambda reply: reply.metadata.src_node_id):
            (arrays,) = reply.content.array_records.values()
            numbers = _metrics(reply)
            local = arrays.to_torch_state_dict()
            if [(name, tensor.shape) for name, tensor in local.items()] != self._layout:
                continue
            weight = float(numbers.pop(_NUM_EXAMPLES))
            update = Update(_flat(local) - model, weight, numbers)
            try:
                sums.append(exact.encode(update, form))
            except exact.InvalidUpdateError as error:
                from flwr.supercore import log

                log(30, "node %s does not count: %s", reply.metadata.src_node_id, error)
            else:
                updates.append(update)
        return updates, sums


@dataclass(frozen=True, slots=True)
class FlowerCarrier:
    """Flower's own grids as rounds use them: one message for every node."""

    grid: Grid

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send the same content to many nodes, wait, return the replies in any order."""
        return self.scatter([(node, content) for node in nodes], kind, ttl=ttl, group_id=group_id)

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send each node a content of its own, wait, return the replies in any order."""
        sent = [
            Message(content, node, kind, ttl=ttl, group_id=group_id) for node, content in contents
        ]
        replies: Iterable[Message] = self.grid.send_and_receive(sent)
        return replies


def server_app(
    prepare: Callable[[Context], str],
    on_round: Callable[[Federation, RoundRecord, ServerState], None],
    directory_of: Callable[[Mapping[str, Any], RunConfig], Directory],
) -> ServerApp:
    """Return a Flower `ServerApp` that runs our rounds on whatever grid Flower gives it.

    `prepare` turns the app's run configuration into the experiment's text (`federation.to_text`),
    which is also what the clients are configured with; `on_round` is told of every round.
    `directory_of` finds the identity keys of clients, for secure sums.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        federation = from_text(prepare(context))
        if federation.config.mode == "pooled":
            accepted = "'federated' or 'local-only': nodes do not give their data away"
            raise ConfigError([Problem("mode", "pooled", accepted)])
        if federation.config.privacy.unit != "none":
            accepted = "'none': a deployed run has no ledger to write down what it spends"
            raise ConfigError([Problem("privacy.unit", federation.config.privacy.unit, accepted)])
        directory = directory_of(context.run_config, federation.config)
        nodes = discover(grid, federation.population)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as on our own grids: another number could change bits
        try:
            carrier = FlowerCarrier(grid)
            start = start_state(federation)
            for record, state in run_rounds(carrier, nodes, federation, start, directory=directory):
                on_round(federation, record, state)
        finally:
            torch.set_num_threads(threads)

    return app


def discover(grid: Grid, clients: int, *, timeout_s: float = 120.0) -> Sequence[int]:
    """Wait for all nodes and ask each which client it is; return node ids in client order.

    Flower gives nodes random ids in random order; a run that sampled those could not be repeated.
    Raises `RunFailedError` when nodes are missing after `timeout_s`, or answer for no client.
    """
    deadline = time.monotonic() + timeout_s
    while len(ids := list(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise RunFailedError(f"{len(ids)} of {clients} nodes connected within {timeout_s:g} s")
        time.sleep(0.2)
    questions = [Message(RecordDict(), node, _QUERY) for node in ids]
    owner: dict[int, int] = {}
    for reply in grid.send_and_receive(questions, timeout=timeout_s):
        if reply.has_error():
            raise RunFailedError(f"node {reply.metadata.src_node_id}: {reply.error.reason}")
        client = int(reply.content.config_records["client"]["partition-id"])
        owner[client] = reply.metadata.src_node_id
    missing = [client for client in range(clients) if client not in owner]
    if missing:
        raise RunFailedError(f"no node answers for client(s) {missing[:10]}")
    return [owner[client] for client in range(clients)]


def _flat(model: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1).float() for tensor in model.values()])


def _metrics(reply: Message) -> dict[str, float]:
    (record,) = reply.content.metric_records.values()
    return {name: float(value) for name, value in record.items() if not isinstance(value, list)}


def _mean_metrics(updates: Sequence[Update]) -> MetricRecord:
    total = math.fsum(update.weight for update in updates)
    names = sorted({name for update in updates for name in update.metrics})
    means = {
        name: math.fsum(u.weight * u.metrics.get(name, 0.0) for u in updates) / total
        for name in names
    }
    return MetricRecord(means)
