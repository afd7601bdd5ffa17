"""Rounds: the server's side of an experiment, on any Flower `Grid`.

`run_rounds` is a generator: it yields a `RoundRecord` and the server state after each round, and
keeps nothing else, so that whoever consumes it can store, checkpoint, show or stop.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from torch import Tensor

from fedsim import exact, messages, metrics, ring, rng, sampling, secure_rounds, user_level
from fedsim.carrier import Carrier
from fedsim.config.schema import RunConfig
from fedsim.core import (
    ClientRecord,
    RoundContext,
    RoundRecord,
    State,
    Update,
    broadcast,
    lost_record,
)
from fedsim.errors import RunFailedError
from fedsim.exact import FixedPoint, InvalidUpdateError, PartialSum
from fedsim.federation import Federation
from fedsim.privacy import local
from fedsim.secagg.identities import Directory

__all__ = [
    "Admit",
    "Carrier",
    "Charge",
    "ServerState",
    "number_format",
    "run_rounds",
    "start_state",
]

#: (round, cohort) -> those of the cohort who may take part, called before anybody is asked; raises
#: `BudgetExceededError` where a round must not take place.
Admit = Callable[[int, Sequence[int]], Sequence[int]]

#: (round, norms) is told, before the sum of a round gets its noise, what each client added to it:
#: by client, its L2 norm; of unit "user" alone.
Charge = Callable[[int, Mapping[int, float]], None]

_FLOAT_BYTES = 4
_METRIC_BYTES = 8


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything the server needs to go on: the last finished round and the strategy's state."""

    round: int
    strategy: State


@dataclass(slots=True)
class _Answers:
    """What came back of one phase: partial sums or updates, a row per client, who was lost.

    `means`: metrics of training where a secure sum has them already, and rows have none. `norms`:
    of what each client added to a plain sum, where privacy rests on them.
    """

    sums: list[PartialSum] = field(default_factory=list)
    updates: dict[int, Update] = field(default_factory=dict)
    statistics: list[tuple[list[int], dict[str, Tensor]]] = field(default_factory=list)
    records: dict[int, ClientRecord] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)
    means: Mapping[str, float] | None = None

    @property
    def count(self) -> int:
        return sum(1 for record in self.records.values() if not record.lost)


def start_state(federation: Federation) -> ServerState:
    """Return the state before round 1."""
    return ServerState(0, federation.config.strategy.init(federation.initial.double()))


def number_format(federation: Federation, state: State | None = None) -> FixedPoint:
    """Return the fixed-point format of a run's sums; proves that no cohort can overflow it.

    `state`: of the strategy, which has the clipping norm of a round where that adapts. Raises
    `ConfigError` where `rounds.max_abs_update`, or the ring of a secure sum, leaves too little
    precision.
    """
    sizes, cohort = federation.clients.sizes(), federation.config.rounds.cohort
    privacy = federation.config.privacy
    if privacy.unit == "user":
        config, dimension = federation.config, federation.initial.numel()
        return user_level.number_format(config, federation.population, dimension, state)
    if ring.is_secure(federation.config):
        return ring.number_format(federation)
    max_abs, max_weight = federation.config.rounds.max_abs_update, float(federation.most_examples)
    if privacy.unit == "local":
        noise = privacy.noise_multiplier or 1.0
        max_abs = local.reach(privacy.mechanism, privacy.clipping_norm, noise)
        max_weight = 1.0
    return exact.fixed_point(
        federation.initial.numel(),
        max_abs=max_abs,
        max_weight=max_weight,
        cohort=min(cohort or len(sizes), len(sizes)),
    )


def run_rounds(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    state: ServerState,
    admit: Admit = lambda number, cohort: cohort,
    *,
    charge: Charge = lambda number, norms: None,
    directory: Directory = lambda client: None,
) -> Iterator[tuple[RoundRecord, ServerState]]:
    """Run the rounds after `state.round`; `nodes[i]` is the address of client i.

    `directory`: identity keys of the clients, which secure sums by masks need. Raises what `admit`
    raises, `SecAggAborted` where a secure sum is given up, and `RunFailedError` when fewer than
    `rounds.min_results` clients of a round count. `records` of the last two say who was lost, why.
    """
    form = number_format(federation, state.strategy)
    for number in range(state.round + 1, federation.config.rounds.count + 1):
        started = perf_counter()
        seconds: dict[str, float] = {}
        ids = admit(number, _cohort(federation, number))
        if federation.config.privacy.clipping == "adaptive":
            form = number_format(federation, state.strategy)
        order = _order(federation, state, number, form)
        answers = _collect(grid, nodes, federation, order, ids, seconds, directory)
        charge(number, answers.norms)
        context = _context(federation, number, len(ids), answers)
        step = partial(_step, federation, state.strategy, answers, form, context)
        strategy = _timed(seconds, "aggregate", step)
        state = ServerState(number, strategy)
        model = strategy["model"].float()
        values = _training_metrics(answers)
        tested = _Answers()
        if _is_due(federation.config.evaluation.central_every, number, federation):
            values |= _timed(seconds, "test", partial(_central, federation, model))
        if _is_due(federation.config.evaluation.federated_every, number, federation):
            work = partial(_ask, grid, nodes, federation, number, strategy)
            tested = _timed(seconds, "evaluate", work)
            values |= _federated_metrics(tested)
        clients = [r for a in (answers, tested) for _, r in sorted(a.records.items())]
        yield (
            RoundRecord(
                round=number,
                metrics=values,
                clients=clients,
                cohort=len(ids),
                real_seconds=perf_counter() - started,
                seconds=seconds,
                bytes_down=sum(client.bytes_down for client in clients),
                bytes_up=sum(client.bytes_up for client in clients),
                model_sha256=hashlib.sha256(model.numpy().tobytes()).hexdigest(),
            ),
            state,
        )


def _context(federation: Federation, number: int, cohort: int, answers: _Answers) -> RoundContext:
    """Return what the strategy may know about a round."""
    seed, population = federation.config.seed, federation.population
    clients, public = sorted(answers.updates), federation.seen_by_all()
    return RoundContext(seed, number, cohort, population, clients, public)


def _order(
    federation: Federation, state: ServerState, number: int, form: FixedPoint
) -> messages.Train:
    """Return what the clients of a round are told to train, and the format of their sum."""
    return messages.Train(
        model=state.strategy["model"].float(),
        round=number,
        lr_factor=federation.lr_factor(number),
        form=form,
        extras=broadcast(federation.config.strategy, state.strategy),
        lanes=ring.lane_sizes(federation),
    )


def _collect(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    order: messages.Train,
    ids: Sequence[int],
    seconds: dict[str, float],
    directory: Directory,
) -> _Answers:
    """Have the cohort of a round train, and return what the strategy and the record need of it.

    Raises `RunFailedError` where too few clients count.
    """
    config, form = federation.config, order.form
    assert form is not None
    if not ring.is_secure(config):
        if config.strategy.needs != "sum":  # without a format nobody folds
            order = replace(order, form=None)
        lost = _dropouts(config, order.round, ids)
        asked = [client for client in ids if client not in lost]
        work = partial(_send, grid, nodes, asked, messages.TRAIN, order, config, form)
        answers: _Answers = _timed(seconds, "train", work)
        for client, phase in lost.items():
            _lose(answers, client, messages.TRAIN, sampling.dropped_out(phase), 0)
    elif ids:
        found = secure_rounds.collect(grid, nodes, federation, order, ids, seconds, directory)
        answers = _Answers(sums=[found.total], records=found.records, means=found.metrics)
    else:
        answers = _Answers(means={})
    if config.privacy.unit != "user" or ids:  # nobody drawn: a step of noise alone
        _check_results(answers, order.round, len(ids), config.rounds.min_results)
    return answers


def _dropouts(config: RunConfig, number: int, ids: Sequence[int]) -> dict[int, str]:
    """Return who drops out of a plain sum; who is lost after it in a secure one is in it."""
    drawn = sampling.dropouts(ids, config.rounds.dropout, seed=config.seed, round=number)
    return {client: phase for client, phase in drawn.items() if phase in sampling.BEFORE_THE_SUM}


def _step(
    federation: Federation, state: State, answers: _Answers, form: FixedPoint, context: RoundContext
) -> State:
    """Give the strategy what it needs: every update, the sum, or the sum with noise."""
    strategy, privacy = federation.config.strategy, federation.config.privacy
    total: Any
    kept: State = {}
    if strategy.needs != "sum":
        total = [update for _, update in sorted(answers.updates.items())]
    elif privacy.unit != "user":
        total = exact.decode(exact.add(answers.sums), form)
    else:
        clear = exact.add(answers.sums) if answers.sums else None
        config, population = federation.config, federation.population
        total, kept = user_level.released(config, population, clear, form, state, context)
    stepped: State = strategy.step(state, total, context)
    return stepped | kept


def _cohort(federation: Federation, number: int) -> list[int]:
    """Draw the clients of a round, largest first; the pooled baseline's is who has everything.

    The longest work is then begun first, and clients that are trained at once are of like size.
    """
    config, privacy = federation.config, federation.config.privacy
    if config.mode == "pooled":
        return [federation.population]
    if privacy.unit == "user":
        drawn = user_level.cohort(config, federation.population, number)
    else:
        stream = rng.stream(config.seed, "cohort", round=number)
        drawn = sampling.uniform(federation.population, config.rounds.cohort, stream)
    sizes = federation.clients.sizes()[drawn]
    return [int(drawn[i]) for i in np.lexsort((drawn, -sizes))]


def _ask(
    grid: Carrier, nodes: Sequence[int], federation: Federation, number: int, state: State
) -> _Answers:
    """Have clients test the model: all of them, or a draw of `evaluation.clients`."""
    config, model = federation.config, state["model"].float()
    clients = sampling.uniform(
        federation.population,
        config.evaluation.clients,
        rng.stream(config.seed, "evaluation", round=number),
    )
    order = messages.Train(model, number)
    if hasattr(config.local, "adapted"):  # it may train, or look at what else was sent
        extras = broadcast(config.strategy, state)
        order = messages.Train(model, number, federation.lr_factor(number), extras=extras)
    ids = [int(client) for client in clients]
    form = number_format(federation)
    return _send(grid, nodes, ids, messages.EVALUATE, order, config, form)


def _send(
    grid: Carrier,
    nodes: Sequence[int],
    ids: Sequence[int],
    kind: str,
    order: messages.Train,
    config: Any,
    form: FixedPoint,
) -> _Answers:
    """Send one order to clients and read what comes back; every client ends up in `records`."""
    content = messages.model_content(order)
    ttl = config.rounds.timeout_s
    asked = [nodes[client] for client in ids]
    replies = grid.broadcast(content, asked, kind, ttl=ttl, group_id=str(order.round))
    client_of = {nodes[client]: client for client in ids}
    answers, size = _Answers(), order.numbers * _FLOAT_BYTES
    payload = 0
    if kind == messages.TRAIN:
        lanes = _FLOAT_BYTES * sum(order.lanes.values())
        payload = config.transform.size_bytes(order.model.numel()) + lanes
    for reply in replies:
        client = client_of.get(reply.metadata.src_node_id, -1)
        if client < 0 or client in answers.records:
            continue  # not asked, or asked once and answering twice: an answer counts once
        if reply.has_error():
            _lose(answers, client, kind, reply.error.reason or "no reason given", size)
            continue
        try:
            rows = messages.rows(reply.content)
            _check_rows(rows, client, client_of.values(), answers)
            _read(answers, rows, reply.content, kind, form, is_folded=order.form is not None)
        except InvalidUpdateError as error:
            _lose(answers, client, kind, str(error), size)
        else:
            for row in rows:
                answers.records[row.client] = _record(row, kind, size, payload)
    for client in ids:
        if client not in answers.records:
            _lose(answers, client, kind, f"no answer within {ttl or 'the time allowed'} s", size)
    return answers


def _check_rows(
    rows: Sequence[messages.Row], client: int, asked: Collection[int], answers: _Answers
) -> None:
    """Refuse a reply that answers for others than who sent it and those folded into it."""
    named = {row.client for row in rows}
    if len(named) < len(rows) or client not in named:
        raise InvalidUpdateError(f"client {client} answers for {[r.client for r in rows][:5]}")
    if strange := sorted(named - set(asked) | named & answers.records.keys()):
        raise InvalidUpdateError(
            f"it answers for {strange[:5]}, not asked or with an answer already"
        )


def _read(
    answers: _Answers,
    rows: Sequence[messages.Row],
    content: RecordDict,
    kind: str,
    form: FixedPoint,
    *,
    is_folded: bool,
) -> None:
    """Take the numbers of a reply whose clients are in `rows`."""
    if kind == messages.EVALUATE:
        statistics = messages.read_statistics(content)
        if any(len(values) != len(rows) for values in statistics.values()):
            raise InvalidUpdateError("the statistics have not one row for each client")
        answers.statistics.append(([row.client for row in rows], statistics))
    elif is_folded:
        part = messages.partial_sums(content, form)
        if answers.sums:
            exact.check_lanes(part.lanes, answers.sums[0].lanes)
        answers.sums.append(part)
        if form.max_norm is not None:
            answers.norms |= messages.norms(content, rows)
    else:
        update = messages.updates(content)
        exact.encode(update, form)  # what cannot be summed does not count here either
        answers.updates[rows[0].client] = update


def _record(row: messages.Row, kind: str, size: int, payload: int) -> ClientRecord:
    return ClientRecord(
        client=row.client,
        phase="train" if kind == messages.TRAIN else "evaluate",
        weight=row.weight,
        metrics=row.metrics,
        real_seconds=row.seconds,
        bytes_down=size,
        bytes_up=_METRIC_BYTES * (3 + len(row.metrics)) + payload,
    )


def _lose(answers: _Answers, client: int, kind: str, reason: str, size: int) -> None:
    phase: Any = "train" if kind == messages.TRAIN else "evaluate"
    answers.records[client] = lost_record(client, phase, reason, bytes_down=size)


def _check_results(answers: _Answers, number: int, asked: int, least: int) -> None:
    if answers.count >= least:
        return
    lost = [record for _, record in sorted(answers.records.items()) if record.lost]
    first = f" First: client {lost[0].client}: {lost[0].lost}" if lost else ""
    raise RunFailedError(
        f"round {number}: {answers.count} of {asked} clients gave a result, rounds.min_results is "
        f"{least}.{first} The full tracebacks are in the run's log.",
        lost,
    )


def _training_metrics(answers: _Answers) -> dict[str, float]:
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


def _central(federation: Federation, model: Tensor) -> dict[str, float]:
    if federation.config.mode == "local-only":
        return {}  # there is no global model; every client's own one is tested by `evaluate`
    statistics = federation.evaluate(model, federation.test())
    return {f"test/{name}": value for name, value in metrics.values(statistics).items()}


def _federated_metrics(answers: _Answers) -> dict[str, float]:
    """Metrics over all clients' examples, and their spread over clients.

    `worst_decile` is the mean of the worst tenth of the clients (at least one), as in Li et al.,
    "Fair resource allocation in federated learning", ICLR 2020, section 4; `variance` is over
    clients. Fills in each client's own values in `answers.records`.
    """
    by_client: dict[int, dict[str, Tensor]] = {}
    for ids, statistics in answers.statistics:
        for i, client in enumerate(ids):
            by_client[client] = {name: rows[i] for name, rows in statistics.items()}
    ids = [i for i in sorted(by_client) if answers.records[i].weight > 0]
    if not ids:
        return {}
    values: dict[str, float] = {}
    per_client: dict[int, dict[str, float]] = {client: {} for client in ids}
    for name in sorted(by_client[ids[0]]):
        metric = name.split("/")[1]
        column = [by_client[client][name] for client in ids]
        total = torch.stack(column).sum(dim=0)
        values[name] = metrics.value(metric, total)
        each = {client: metrics.value(metric, row) for client, row in zip(ids, column, strict=True)}
        for client, value in each.items():
            per_client[client][name] = value
        values |= _spread(name, [v for v in each.values() if math.isfinite(v)])
    for client, own in per_client.items():
        answers.records[client] = replace(answers.records[client], metrics=own)
    return values


def _spread(name: str, values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    metric = name.split("/")[1]
    worst_first = sorted(values, reverse=not metrics.larger_is_better(metric))
    tenth = worst_first[: max(1, len(values) // 10)]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return {
        f"{name}/worst_decile": math.fsum(tenth) / len(tenth),
        f"{name}/variance": variance,
    }


def _is_due(every: int, number: int, federation: Federation) -> bool:
    return every > 0 and (number % every == 0 or number == federation.config.rounds.count)


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], Any]) -> Any:
    started = perf_counter()
    result = work()
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - started
    return result
