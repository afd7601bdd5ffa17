"""Rounds: the server's side of an experiment, on any Flower `Grid`.

`run_rounds` is a generator: it yields a `RoundRecord` and the server state after each round, and
keeps nothing else, so that whoever consumes it can store, checkpoint, show or stop.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from fedsim import attacked, exact, messages, ring, rng, sampling, secure_rounds, user_level
from fedsim.adversaries import is_omniscient
from fedsim.answers import Answers, check_results, lose, send, timed, training_metrics
from fedsim.carrier import Carrier
from fedsim.config.schema import RunConfig
from fedsim.core import RoundContext, RoundRecord, State, broadcast
from fedsim.evaluating import tested
from fedsim.exact import FixedPoint
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


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything the server needs to go on: the last finished round and the strategy's state."""

    round: int
    strategy: State


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
        remembered = attacked.carry_out(federation, state.strategy, answers, form, number)
        context = _context(federation, number, len(ids), answers)
        step = partial(_step, federation, state.strategy, answers, form, context)
        strategy = timed(seconds, "aggregate", step)
        state = ServerState(number, strategy | remembered)
        model = strategy["model"].float()
        more, testing = tested(grid, nodes, federation, number, strategy, form, seconds)
        values = training_metrics(answers) | attacked.malicious(federation, answers) | more
        clients = [r for a in (answers, testing) for _, r in sorted(a.records.items())]
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


def _context(federation: Federation, number: int, cohort: int, answers: Answers) -> RoundContext:
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
) -> Answers:
    """Have the cohort of a round train, and return what the strategy and the record need of it.

    Raises `RunFailedError` where too few clients count.
    """
    config, form = federation.config, order.form
    assert form is not None
    if not ring.is_secure(config):
        if config.strategy.needs != "sum" or is_omniscient(config):  # without it nobody folds
            order = replace(order, form=None)
        lost = _dropouts(config, order.round, ids)
        asked = [client for client in ids if client not in lost]
        work = partial(send, grid, nodes, asked, messages.TRAIN, order, config, form)
        answers: Answers = timed(seconds, "train", work)
        for client, phase in lost.items():
            lose(answers, client, messages.TRAIN, sampling.dropped_out(phase), 0)
    elif ids:
        found = secure_rounds.collect(grid, nodes, federation, order, ids, seconds, directory)
        answers = Answers(sums=[found.total], records=found.records, means=found.metrics)
    else:
        answers = Answers(means={})
    if config.privacy.unit != "user" or ids:  # nobody drawn: a step of noise alone
        check_results(answers, order.round, len(ids), config.rounds.min_results)
    return answers


def _dropouts(config: RunConfig, number: int, ids: Sequence[int]) -> dict[int, str]:
    """Return who drops out of a plain sum; who is lost after it in a secure one is in it."""
    drawn = sampling.dropouts(ids, config.rounds.dropout, seed=config.seed, round=number)
    return {client: phase for client, phase in drawn.items() if phase in sampling.BEFORE_THE_SUM}


def _step(
    federation: Federation, state: State, answers: Answers, form: FixedPoint, context: RoundContext
) -> State:
    """Give the strategy what it needs: every update, the sum, or the sum with noise."""
    strategy, privacy = federation.config.strategy, federation.config.privacy
    total: Any
    kept: State = {}
    if strategy.needs != "sum":
        total = [update for _, update in sorted(answers.updates.items())]
    elif privacy.unit != "user":
        alone = (exact.encode(update, form) for update in answers.updates.values())
        total = exact.decode(exact.add([*answers.sums, *alone]), form)
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
