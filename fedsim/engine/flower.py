"""The bridge to Flower: our strategies as Flower `Strategy` objects, its grids as carriers of ours.

The other directions are elsewhere: Flower's strategies as ours in `strategies/flower.py`, our
client as a Flower `ClientApp` in `clients/app.py`, our rounds as a `ServerApp` in
`fedsim/deploy/server_app.py`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedsim import exact, messages
from fedsim.core import RoundContext, State, Update
from fedsim.envelope import packed, unpacked

__all__ = ["FedsimStrategy", "FlowerCarrier", "pull", "set_source"]

_GRACE_S = 5.0  # a reply may be on its way when the time to live ends
_PULLS, _EACH = 8, 16  # at a time, where there are so many messages for each
_ASKED_PER_S = 100  # replies that are asked for, so that a SuperLink has time for its nodes
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
        context = RoundContext(self._seed, server_round, self._asked, self._asked)
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


@dataclass(slots=True)
class FlowerCarrier:
    """Flower's own grids as rounds use them: one message for every node, replies as they come.

    Small contents travel packed (`fedsim.envelope`).

    `timeout_s`: how long a node has to answer where the experiment does not say it. A node that the
    SuperLink has not heard of for a minute is lost before. `on_progress(done, asked)` is told of
    replies.
    """

    grid: Grid
    timeout_s: float = 300.0
    poll_s: float = 0.25
    on_progress: Callable[[int, int], None] = lambda done, asked: None

    def broadcast(
        self,
        content: RecordDict,
        nodes: Sequence[int],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send the same content to many nodes; return the replies as they come."""
        return self.scatter([(node, content) for node in nodes], kind, ttl=ttl, group_id=group_id)

    def scatter(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        *,
        ttl: float | None,
        group_id: str,
    ) -> Iterable[Message]:
        """Send each node a content of its own; return the replies as they come.

        An error that the SuperLink made in place of a node's reply comes from that node.
        """
        limit_s = ttl or self.timeout_s
        waiting = self._push(contents, kind, limit_s, group_id)
        return self._replies(waiting, len(contents), time.monotonic() + limit_s + _GRACE_S)

    def post(
        self, content: RecordDict, nodes: Sequence[int], kind: str, *, ttl: float, group_id: str
    ) -> dict[str, int]:
        """Send the same content to nodes; return the nodes by the identity of their message."""
        return self._push([(node, content) for node in nodes], kind, ttl, group_id)

    def collect(self, waiting: Mapping[str, int]) -> list[tuple[str, Message]]:
        """Return the replies that are there, each with the identity of what it answers."""
        found = []
        for reply in pull(self.grid, list(waiting)):
            identity = reply.metadata.reply_to_message_id
            if identity in waiting:
                found.append((identity, _opened(reply, waiting[identity])))
        return found

    def rest(self, waiting: int) -> None:
        """Sleep until so many replies may be asked for again."""
        time.sleep(max(self.poll_s, waiting / _ASKED_PER_S))

    def _push(
        self,
        contents: Sequence[tuple[int, RecordDict]],
        kind: str,
        ttl: float,
        group_id: str,
    ) -> dict[str, int]:
        """Send contents; return the nodes by the identity of their message."""
        made = {id(content): packed(content) for _, content in contents}
        sent = [
            Message(made[id(content)], node, kind, ttl=ttl, group_id=group_id)
            for node, content in contents
        ]
        identities = self.grid.push_messages(sent)
        return {i: node for i, (node, _) in zip(identities, contents, strict=True) if i}

    def _replies(self, waiting: dict[str, int], asked: int, deadline: float) -> Iterator[Message]:
        while waiting and time.monotonic() < deadline:
            for reply in pull(self.grid, list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                yield _opened(reply, node)
            self.on_progress(asked - len(waiting), asked)
            if waiting:
                self.rest(len(waiting))


def pull(grid: Grid, identities: Sequence[str]) -> list[Message]:
    """Return the replies to messages that are there, in any order.

    Flower asks for what a reply consists of, and confirms it, one reply after the other; a
    SuperLink that is busy with many nodes takes its time with each request. So several parts of
    many messages are asked for at a time.
    """
    count = min(_PULLS, len(identities) // _EACH)
    if count <= 1:
        return list(grid.pull_messages(identities))
    parts = [identities[first::count] for first in range(count)]
    with ThreadPoolExecutor(count) as threads:
        return [reply for found in threads.map(grid.pull_messages, parts) for reply in found]


def set_source(reply: Message, node: int) -> None:
    """Say who a reply comes from, which Flower lets nobody write."""
    reply.metadata.__dict__["_src_node_id"] = node


def _opened(reply: Message, node: int) -> Message:
    """Return a node's reply as rounds read it."""
    # Flower names itself as the source of what it says for a node that is gone.
    set_source(reply, node)
    if reply.has_error():
        return reply
    try:
        reply.content = unpacked(reply.content)
    except exact.InvalidUpdateError as error:
        return messages.as_error(reply, error)
    return messages.of_one(reply)


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
