"""What came back of one phase of a round: asked, read and checked, whoever carried it."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import repeat
from operator import add
from time import perf_counter
from typing import Any

from flwr.app import Message, RecordDict
from torch import Tensor

from fedsim import client_table, exact, messages
from fedsim.carrier import Carrier
from fedsim.client_table import Table
from fedsim.core import ClientRecord, RoundRecord, Update, lost_record
from fedsim.errors import RunFailedError
from fedsim.exact import FixedPoint, InvalidUpdateError, PartialSum

__all__ = [
    "Answers",
    "check_results",
    "lose",
    "merged",
    "read_each",
    "round_record",
    "send",
    "send_each",
    "timed",
    "training_metrics",
]

_METRIC_BYTES = 8


@dataclass(slots=True)
class Answers:
    """What came back of one phase: partial sums or updates, a row per client, who was lost.

    `means`: metrics of training where a secure sum has them already, and rows have none. `norms`:
    of what each client added to a plain sum, where privacy rests on them. `factors`: what updates
    are multiplied by, where a selection says so.
    """

    sums: list[PartialSum] = field(default_factory=list)
    updates: dict[int, Update] = field(default_factory=dict)
    statistics: list[tuple[list[int], dict[str, Tensor]]] = field(default_factory=list)
    records: dict[int, ClientRecord] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)
    means: Mapping[str, float] | None = None
    factors: Mapping[int, float] | None = None

    @property
    def count(self) -> int:
        """How many clients count."""
        return sum(1 for record in self.records.values() if not record.lost)


def send(
    grid: Carrier,
    nodes: Sequence[int],
    ids: Sequence[int],
    kind: str,
    order: messages.Train,
    config: Any,
    form: FixedPoint,
) -> Answers:
    """Send one order to clients and read what comes back; every client ends up in `records`."""
    content, asked = messages.model_content(order), [nodes[client] for client in ids]
    ttl = config.rounds.timeout_s
    replies = grid.broadcast(content, asked, kind, ttl=ttl, group_id=str(order.round))
    (answers,) = read_each(replies, nodes, [(order, ids)], kind, config, form)
    return answers


def send_each(
    grid: Carrier,
    nodes: Sequence[int],
    asked: Sequence[tuple[messages.Train, Sequence[int]]],
    number: int,
    config: Any,
    form: FixedPoint,
) -> list[Answers]:
    """Have clients train by several orders at once, each by its own; return what came of each."""
    if len(asked) == 1:
        order, ids = asked[0]
        return [send(grid, nodes, ids, messages.TRAIN, order, config, form)]
    contents = [(messages.model_content(order), ids) for order, ids in asked]
    sent = [(nodes[client], content) for content, ids in contents for client in ids]
    ttl = config.rounds.timeout_s
    replies = grid.scatter(sent, messages.TRAIN, ttl=ttl, group_id=str(number))
    return read_each(replies, nodes, asked, messages.TRAIN, config, form)


def merged(parts: Sequence[Answers]) -> Answers:
    """Return what came of several orders as if it had been one."""
    whole = Answers()
    for part in parts:
        whole.sums += part.sums
        whole.updates |= part.updates
        whole.records |= part.records
        whole.norms |= part.norms
    return whole


def read_each(
    replies: Iterable[Message],
    nodes: Sequence[int],
    asked: Sequence[tuple[messages.Train, Sequence[int]]],
    kind: str,
    config: Any,
    form: FixedPoint,
) -> list[Answers]:
    """Read replies to orders, each client's with those of others who got the same.

    `asked`: each order, and who got it. Who has not answered is lost.
    """
    found = [Answers() for _ in asked]
    members = [frozenset(ids) for _, ids in asked]
    place_of = {client: place for place, (_, ids) in enumerate(asked) for client in ids}
    client_of = {nodes[client]: client for client in place_of}
    for reply in replies:
        client = client_of.get(reply.metadata.src_node_id, -1)
        if client < 0 or client in found[place_of[client]].records:
            continue  # not asked, or asked once and answering twice: an answer counts once
        place = place_of[client]
        _take(found[place], reply, client, members[place], kind, (asked[place][0], form))
    for answers, (order, ids) in zip(found, asked, strict=True):
        for client in ids:
            if client not in answers.records:
                reason = f"no answer within {config.rounds.timeout_s or 'the time allowed'} s"
                lose(answers, client, kind, reason, order.size_bytes)
    return found


def _take(
    answers: Answers,
    reply: Message,
    client: int,
    ids: Set[int],
    kind: str,
    order_and_form: tuple[messages.Train, FixedPoint],
) -> None:
    """Take one reply, or lose the client that sent it."""
    order, form = order_and_form
    size = order.size_bytes
    if reply.has_error():
        lose(answers, client, kind, reply.error.reason or "no reason given", size)
        return
    try:
        found = client_table.read(reply.content)
        _check_clients(found.clients, client, ids, answers)
        _read(answers, found, reply.content, kind, order, form)
    except InvalidUpdateError as error:
        lose(answers, client, kind, str(error), size)
    else:
        own = _records(messages.measured(reply.content, found), kind, size)
        answers.records.update(zip(found.clients, own, strict=True))


def _check_clients(clients: Sequence[int], client: int, asked: Set[int], answers: Answers) -> None:
    """Refuse a reply that answers for others than who sent it and those folded into it."""
    named = set(clients)
    if len(named) < len(clients) or client not in named:
        raise InvalidUpdateError(f"client {client} answers for {list(clients[:5])}")
    if strange := sorted(named - asked | named & answers.records.keys()):
        raise InvalidUpdateError(
            f"it answers for {strange[:5]}, not asked or with an answer already"
        )


def _read(
    answers: Answers,
    clients: Table,
    content: RecordDict,
    kind: str,
    order: messages.Train,
    form: FixedPoint,
) -> None:
    """Take the numbers of a reply of `clients`."""
    if kind == messages.EVALUATE:
        statistics = messages.read_statistics(content)
        if any(len(values) != len(clients) for values in statistics.values()):
            raise InvalidUpdateError("the statistics have not one row for each client")
        answers.statistics.append((list(clients.clients), statistics))
        return
    decode = messages.decode_of(order)
    if order.form is not None:
        part = messages.partial_sums(content, clients, form, decode)
        if answers.sums:
            exact.check_lanes(part.lanes, answers.sums[0].lanes)
        answers.sums.append(part)
        if form.max_norm is not None:
            answers.norms |= messages.norms(content, clients)
    else:
        update = messages.updates(content, clients, decode)
        exact.encode(update, form)  # what cannot be summed does not count here either
        answers.updates[clients.clients[0]] = update


def _records(clients: Table, kind: str, size: int) -> Iterator[ClientRecord]:
    """Return what the clients of a reply did, in their order; `size`: the bytes each was sent."""
    phase: Any = "train" if kind == messages.TRAIN else "evaluate"
    sent = (0 if math.isnan(own) else int(own) for own in clients.sent)
    numbers = (_METRIC_BYTES * (3 + len(own)) for own in clients.metrics)
    return map(
        ClientRecord,
        clients.clients,
        repeat(phase),
        clients.weights,
        clients.metrics,
        clients.seconds,
        repeat(size),
        map(add, numbers, sent),
    )


def lose(answers: Answers, client: int, kind: str, reason: str, size: int) -> None:
    """Write down that a client does not count."""
    phase: Any = "train" if kind == messages.TRAIN else "evaluate"
    answers.records[client] = lost_record(client, phase, reason, bytes_down=size)


def check_results(answers: Answers, number: int, asked: int, least: int) -> None:
    """Raise `RunFailedError` where fewer than `least` clients of a round count."""
    if answers.count >= least:
        return
    lost = [record for _, record in sorted(answers.records.items()) if record.lost]
    first = f" First: client {lost[0].client}: {lost[0].lost}" if lost else ""
    raise RunFailedError(
        f"round {number}: {answers.count} of {asked} clients gave a result, rounds.min_results is "
        f"{least}.{first} The full tracebacks are in the run's log.",
        lost,
    )


def round_record(
    number: int,
    values: Mapping[str, float],
    phases: Sequence[Mapping[int, ClientRecord]],
    cohort: int,
    started: float,
    seconds: dict[str, float],
    model: Tensor,
) -> RoundRecord:
    """Return the record of a round, or a step, that ends now; `phases`: records by client.

    `started`: of `perf_counter`. `model`: as it is after it.
    """
    clients = [record for records in phases for _, record in sorted(records.items())]
    return RoundRecord(
        round=number,
        metrics=values,
        clients=clients,
        cohort=cohort,
        real_seconds=perf_counter() - started,
        seconds=seconds,
        bytes_down=sum(client.bytes_down for client in clients),
        bytes_up=sum(client.bytes_up for client in clients),
        model_sha256=hashlib.sha256(model.float().numpy().tobytes()).hexdigest(),
    )


def training_metrics(answers: Answers) -> dict[str, float]:
    """Weighted means of what clients reported; summed exactly, in no order."""
    if answers.means is not None:
        return {f"train/{name}": value for name, value in answers.means.items()}
    done = [record for record in answers.records.values() if not record.lost]
    names = sorted({name for record in done for name in record.metrics} - {"examples"})
    means = {}
    for name in names:
        having = [record for record in done if name in record.metrics]
        weight = math.fsum(record.weight for record in having)
        means[f"train/{name}"] = _sum(r.weight * r.metrics[name] for r in having) / weight
    return means


def _sum(values: Iterable[float]) -> float:
    """Return an exact sum; NaN for one that no number is: infinities of both signs, overflow."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan


def timed(seconds: dict[str, float], stage: str, work: Callable[[], Any]) -> Any:
    """Return what work comes to, and add its time to a stage of the round."""
    started = perf_counter()
    result = work()
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - started
    return result
