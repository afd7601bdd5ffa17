"""Rounds: the server's side of an experiment, on any Flower `Grid`.

`run_rounds` is a generator: it yields a `RoundRecord` and the server state after each round, and
keeps nothing else, so that whoever consumes it can store, checkpoint, show or stop.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from fedsim import (
    attacked,
    choosing,
    exact,
    messages,
    ring,
    sampling,
    secure_rounds,
    sending,
    timing,
    user_level,
)
from fedsim.adversaries import is_omniscient
from fedsim.answers import (
    Answers,
    check_results,
    lose,
    merged,
    round_record,
    send_each,
    timed,
    training_metrics,
)
from fedsim.asynchronous import run_steps
from fedsim.carrier import Carrier
from fedsim.clock import Timetable
from fedsim.config.schema import RunConfig
from fedsim.core import (
    ClientContext,
    RoundContext,
    RoundRecord,
    State,
    Update,
    broadcast,
    is_asynchronous,
)
from fedsim.evaluating import tested
from fedsim.exact import FixedPoint
from fedsim.federation import Federation, public_of, width
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


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything the server needs to go on: the last finished round and the strategy's state."""

    round: int
    strategy: State


def start_state(federation: Federation) -> ServerState:
    """Return the state before round 1."""
    return ServerState(0, federation.config.strategy.init(federation.initial.double()))


def number_format(federation: Federation, state: State | None = None, round: int = 1) -> FixedPoint:
    """Return the fixed-point format of a round's sum; proves that no cohort can overflow it.

    `state`: of the strategy, which has the clipping norm of a round where that adapts. Raises
    `ConfigError` where `rounds.max_abs_update`, or the ring of a secure sum, leaves too little
    precision.
    """
    sizes, cohort = federation.clients.sizes(), federation.config.rounds.cohort
    privacy = federation.config.privacy
    if privacy.unit == "user":
        config, dimension = federation.config, width(federation, round)
        return user_level.number_format(config, federation.population, dimension, state)
    if ring.is_secure(federation.config):
        return ring.number_format(federation, round)
    max_abs, max_weight = federation.config.rounds.max_abs_update, float(federation.most_examples)
    if privacy.unit == "local":
        noise = privacy.noise_multiplier or 1.0
        max_abs = local.reach(privacy.mechanism, privacy.clipping_norm, noise)
        max_weight = 1.0
    buffer = getattr(federation.config.strategy, "buffer", 0)  # of an asynchronous one
    largest = max(cohort or len(sizes), buffer)
    return exact.fixed_point(
        width(federation, round),
        max_abs=max_abs,
        max_weight=max_weight,
        cohort=choosing.most(federation.config, len(sizes), min(largest, len(sizes))),
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
    if federation.config.mode == "federated" and is_asynchronous(federation.config.strategy):
        form = number_format(federation, state.strategy)
        for record, strategy in run_steps(
            grid, nodes, federation, state.strategy, state.round, form
        ):
            yield record, ServerState(record.round, strategy)
        return
    clock = timing.clock_of(federation, number_format(federation, state.strategy))
    for number in range(state.round + 1, federation.config.rounds.count + 1):
        started = perf_counter()
        seconds: dict[str, float] = {}
        began_s = clock.begins(state.strategy) if clock else 0.0
        online = clock.online(began_s) if clock else None
        drawn, factors = _cohort(federation, state.strategy, number, online)
        ids = admit(number, drawn)
        form = number_format(federation, state.strategy, number)
        order = _order(federation, state, number, form)
        table = clock.round(_staying(federation, number, ids), order, began_s) if clock else None
        answers = _collect(
            grid, nodes, federation, order, ids, seconds, directory=directory, table=table
        )
        answers.factors = factors
        charge(number, answers.norms)
        remembered = attacked.carry_out(federation, state.strategy, answers, form, number)
        seen = table.seconds if table else {}
        remembered |= choosing.learned(federation, state.strategy, answers, number, seen)
        context = _context(federation, number, len(ids), answers)
        context = replace(context, root=_root(federation, order))
        step = partial(_step, federation, state.strategy, answers, order, context, online)
        strategy = timed(seconds, "aggregate", step)
        strategy |= remembered
        if table:
            strategy |= timing.kept(state.strategy, table.ended_s, math.fsum(table.joules.values()))
        state = ServerState(number, strategy)
        more, testing = tested(grid, nodes, federation, number, strategy, form, seconds)
        values = training_metrics(answers) | attacked.malicious(federation, answers) | more
        values |= timing.values(strategy)
        if table and not ring.is_secure(federation.config):
            answers.records = timing.noted(answers.records, table)
        phases, cohort = (answers.records, testing.records), len(ids)
        yield (
            round_record(number, values, phases, cohort, started, seconds, strategy["model"]),
            state,
        )


def _context(federation: Federation, number: int, cohort: int, answers: Answers) -> RoundContext:
    """Return what the strategy may know about a round."""
    seed, population = federation.config.seed, federation.population
    clients, public = sorted(answers.updates), public_of(federation)
    return RoundContext(seed, number, cohort, population, clients, public)


def _root(federation: Federation, order: messages.Train) -> Tensor | None:
    """Train on the server's own rows as a client would, where the strategy has any."""
    if federation.root is None:
        return None
    rows, number = [federation.root], order.round
    task = federation.task(order.model, rows, extras=order.extras, round=number)
    nobody = federation.population  # the number of no client
    own = ClientContext(federation.config.seed, number, nobody, order.lr_factor)
    update: Update = federation.config.local.train(task, {}, own)[0]
    return sending.unsent(federation, update.vector, order)


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
        coding=sending.told(federation),
    )


def _collect(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    order: messages.Train,
    ids: Sequence[int],
    seconds: dict[str, float],
    *,
    directory: Directory,
    table: Timetable | None,
) -> Answers:
    """Have the cohort of a round train, and return what the strategy and the record need of it.

    `table`: how the round goes by the virtual clock, if there is one. Who does not count by it is
    not trained. Raises `RunFailedError` where too few clients count.
    """
    config, form = federation.config, order.form
    assert form is not None
    late = table.lost if table else {}
    if not ring.is_secure(config):
        if _sees_each(config):  # without a format nobody folds
            order = replace(order, form=None)
        staying = _staying(federation, order.round, ids)
        asked = _orders(order, [client for client in staying if client not in late], table)
        work = partial(send_each, grid, nodes, asked, order.round, config, form)
        answers: Answers = merged(timed(seconds, "train", work))
        for client, phase in _dropouts(config, order.round, ids).items():
            lose(answers, client, messages.TRAIN, sampling.dropped_out(phase), 0)
    elif ids:
        gone = timing.gone(table)
        found = secure_rounds.collect(
            grid, nodes, federation, order, ids, seconds, directory, gone=gone
        )
        answers = Answers(sums=[found.total], records=found.records, means=found.metrics)
    else:
        answers = Answers(means={})
    for client, reason in late.items():
        size = order.size_bytes if table and client in table.downloads else 0
        lose(answers, client, messages.TRAIN, reason, size)
    if config.privacy.unit != "user" or ids:  # nobody drawn: a step of noise alone
        check_results(answers, order.round, len(ids), config.rounds.min_results)
    return answers


def _sees_each(config: RunConfig) -> bool:
    """Say whether the server has to see every single update."""
    is_chosen = choosing.needs_updates(config)
    return config.strategy.needs != "sum" or is_omniscient(config) or is_chosen


def _orders(
    order: messages.Train, ids: Sequence[int], table: Timetable | None
) -> list[tuple[messages.Train, Sequence[int]]]:
    """Return who is asked for what: by the clock, some for fewer epochs than others."""
    epochs = {client: table.epochs[client] if table else None for client in ids}
    kinds = sorted(set(epochs.values()), key=lambda own: own or 0) or [None]
    return [(replace(order, epochs=own), [c for c in ids if epochs[c] == own]) for own in kinds]


def _staying(federation: Federation, number: int, ids: Sequence[int]) -> list[int]:
    """Return who of a cohort does not drop out before the sum."""
    lost = _dropouts(federation.config, number, ids)
    return [client for client in ids if client not in lost]


def _dropouts(config: RunConfig, number: int, ids: Sequence[int]) -> dict[int, str]:
    """Return who drops out of a plain sum; who is lost after it in a secure one is in it."""
    drawn = sampling.dropouts(ids, config.rounds.dropout, seed=config.seed, round=number)
    return {client: phase for client, phase in drawn.items() if phase in sampling.BEFORE_THE_SUM}


def _step(
    federation: Federation,
    state: State,
    answers: Answers,
    order: messages.Train,
    context: RoundContext,
    online: Sequence[int] | None = None,
) -> State:
    """Give the strategy what it needs: every update, the sum, or the sum with noise."""
    strategy, privacy, form = federation.config.strategy, federation.config.privacy, order.form
    assert form is not None
    total: Any
    kept: State = {}
    if strategy.needs != "sum":
        single = [update for _, update in sorted(answers.updates.items())]
        total = sending.whole(federation, single, order)
    elif answers.factors is not None:
        total = choosing.weighted(federation, answers, online)
    elif privacy.unit != "user":
        alone = (exact.encode(update, form) for update in answers.updates.values())
        total = exact.decode(exact.add([*answers.sums, *alone]), form)
    else:
        clear = exact.add(answers.sums) if answers.sums else None
        config, population = federation.config, federation.population
        total, kept = user_level.released(config, population, clear, form, state, context)
    if strategy.needs == "sum":
        total = sending.concluded(federation, total, order)
    stepped: State = strategy.step(state, total, context)
    model = sending.settled(federation, stepped["model"], order)
    return stepped | kept | {"model": model}


def _cohort(
    federation: Federation, state: State, number: int, online: Sequence[int] | None = None
) -> tuple[list[int], dict[int, float] | None]:
    """Draw the clients of a round, largest first; the pooled baseline's is who has everything.

    Returns what their updates are multiplied by too, where the selection says so.

    The longest work is then begun first, and clients that are trained at once are of like size.
    `online`: who is there, where not all are. With unit "user" clients are drawn from all of them,
    there or not: that is what amplification by sampling is accounted for.
    """
    config, privacy = federation.config, federation.config.privacy
    if config.mode == "pooled":
        return [federation.population], None
    factors = None
    if privacy.unit == "user":
        drawn = user_level.cohort(config, federation.population, number)
    else:
        asked = timing.asked(config, federation.population)
        found = choosing.chosen(federation, state, number, asked, online)
        drawn, factors = found.clients, choosing.factors_of(found)
    sizes = federation.clients.sizes()[drawn]
    return [int(drawn[i]) for i in np.lexsort((drawn, -sizes))], factors
