"""Steps of an asynchronous strategy: by whoever arrives, on a virtual clock or on real machines.

In a simulation the queue of `fedsim.arrivals` says who arrives when. It does not depend on what is
learned, so clients are trained when their arrival is counted, from the model that they began with;
models are kept as long as somebody is at work on one. Between real machines replies count in the
order in which they come, and no two runs are the same.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from typing import Protocol

import torch
from flwr.app import Message
from torch import Tensor

from fedsim import exact, messages, ring, rng, sampling, sending, timing
from fedsim.answers import (
    Answers,
    check_results,
    lose,
    merged,
    read_each,
    round_record,
    send_each,
    timed,
    training_metrics,
)
from fedsim.arrivals import Queue, Task, fill, from_tensor, to_tensor
from fedsim.carrier import Carrier, Mailbox
from fedsim.core import ClientRecord, RoundContext, RoundRecord, State, Sum, lost_record
from fedsim.errors import RunFailedError
from fedsim.evaluating import tested
from fedsim.exact import FixedPoint
from fedsim.federation import Federation

__all__ = ["run_steps"]

_QUEUE = "async/queue"
_MODEL = "async/model/"  # then after how many steps it was the newest
_MOST_FAILURES = 3  # of a client in one step: then it is not asked again before the next one
_REST_S = 5.0  # of a client that failed, before it is asked again
_LIMIT_S, _GRACE_S = 300.0, 5.0  # for a reply, where the experiment does not say; on its way


@dataclass(slots=True)
class _Arrived:
    """What makes a step: by version of the model, who began with it, and what came of them.

    `lost`: who is gone since the last step, and why. `more`: what the server's state keeps.
    `noted`: by client, what the clock says of it.
    """

    parts: list[tuple[int, Answers]]
    lost: dict[int, str] = field(default_factory=dict)
    more: State = field(default_factory=dict)
    noted: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


class _Source(Protocol):
    """Where arrivals come from."""

    def next(self, state: State, number: int, seconds: dict[str, float]) -> _Arrived:
        """Return what makes step `number`, which begins with a state."""
        ...


def run_steps(
    grid: Carrier,
    nodes: Sequence[int],
    federation: Federation,
    state: State,
    done: int,
    form: FixedPoint,
) -> Iterator[tuple[RoundRecord, State]]:
    """Run the steps after `done`; a record and the server's state after each.

    Raises `ConfigError` in a simulation without devices, where nobody would arrive before another,
    and `RunFailedError` where fewer than `rounds.min_results` of a buffer count.
    """
    source = _source(grid, nodes, federation, form)
    config, strategy = federation.config, federation.config.strategy
    for number in range(done + 1, config.rounds.count + 1):
        started = perf_counter()
        seconds: dict[str, float] = {}
        found = source.next(state, number, seconds)
        answers = merged([part for _, part in found.parts])
        for client, reason in found.lost.items():
            if client not in answers.records:
                lose(answers, client, messages.TRAIN, reason, 0)
        check_results(answers, number, len(answers.records), config.rounds.min_results)
        before = number - 1
        context = RoundContext(config.seed, number, strategy.buffer, federation.population)
        total = partial(_total, federation, found.parts, state, before, form)
        stepped = strategy.step(state, timed(seconds, "aggregate", total), context)
        used = _staleness(found.parts, before)
        state = stepped | found.more
        more, testing = tested(grid, nodes, federation, number, state, form, seconds)
        values = training_metrics(answers) | more | timing.values(state) | used
        records = {
            c: _with(record, found.noted.get(c, {})) for c, record in answers.records.items()
        }
        phases, cohort = (records, testing.records), len(answers.records)
        yield (
            round_record(number, values, phases, cohort, started, seconds, state["model"]),
            state,
        )


def _source(
    grid: Carrier, nodes: Sequence[int], federation: Federation, form: FixedPoint
) -> _Source:
    if isinstance(grid, Mailbox):
        return _Real(grid, nodes, federation, form)
    clock = timing.clock_of(federation, form)
    timing.must_simulate(federation.config)
    assert clock is not None
    return _Virtual(grid, nodes, federation, form, clock)


def _total(
    federation: Federation,
    parts: Sequence[tuple[int, Answers]],
    state: State,
    done: int,
    form: FixedPoint,
) -> Sum:
    """Add up what arrived, each version's exact sum scaled by its staleness; weights are not.

    Dividing by the whole weight then is what makes stale updates count less, and not others more.
    """
    strategy, vector = federation.config.strategy, torch.zeros_like(state["model"])
    weight, count = 0.0, 0
    for version, answers in parts:
        if not answers.sums:
            continue  # all of it was lost
        order = _order(federation, state, version, done, form)
        own = sending.concluded(federation, exact.decode(exact.add(answers.sums), form), order)
        moved = own.vector
        if strategy.counts_from == "now":
            moved = moved + own.weight * (_model(state, version, done).double() - state["model"])
        vector += strategy.scale(done - version) * moved
        weight, count = weight + own.weight, count + own.count
    return Sum(vector, weight, count)


def _model(state: State, version: int, done: int) -> Tensor:
    """Return the model after so many steps, as clients were sent it."""
    model: Tensor = state["model"].float() if version == done else state[f"{_MODEL}{version}"]
    return model


def _order(
    federation: Federation, state: State, version: int, done: int, form: FixedPoint
) -> messages.Train:
    """Return what clients are told that begin with a version of the model."""
    return messages.Train(
        model=_model(state, version, done),
        round=version + 1,
        lr_factor=federation.lr_factor(version + 1),
        form=form,
        lanes=ring.lane_sizes(federation),
        coding=sending.told(federation),
    )


def _staleness(parts: Sequence[tuple[int, Answers]], done: int) -> dict[str, float]:
    counts = [(done - version, answers.count) for version, answers in parts]
    whole = sum(count for _, count in counts)
    return {"train/staleness": sum(old * count for old, count in counts) / whole}


def _with(record: ClientRecord, own: Mapping[str, float]) -> ClientRecord:
    return record._replace(metrics={**record.metrics, **own}) if own else record


@dataclass(frozen=True, slots=True)
class _Virtual:
    """Simulated clients, by the virtual clock."""

    grid: Carrier
    nodes: Sequence[int]
    federation: Federation
    form: FixedPoint
    clock: timing.Clock

    def next(self, state: State, number: int, seconds: dict[str, float]) -> _Arrived:
        """Return what makes step `number`, which begins with a state."""
        config, done = self.federation.config, number - 1
        queue = from_tensor(state[_QUEUE]) if _QUEUE in state else Queue()
        concurrency = min(config.rounds.cohort or self.federation.population, self._population)
        order = _order(self.federation, state, done, done, self.form)
        begin = partial(self._begin, order, concurrency)
        queue, taken, lost = fill(queue, config.strategy.buffer, concurrency, begin)
        dropped = {t.client for t in taken if self._drops_out(t)}
        versions = sorted({task.version for task in taken})
        asked = [
            (
                _order(self.federation, state, version, done, self.form),
                [t.client for t in taken if t.version == version and t.client not in dropped],
            )
            for version in versions
        ]
        work = partial(send_each, self.grid, self.nodes, asked, number, config, self.form)
        parts: list[Answers] = timed(seconds, "train", work)
        gone = {t.client: "went offline (simulated)" for t in lost}
        gone |= dict.fromkeys(dropped, "dropped out (simulated)")
        joules = math.fsum(task.joules for task in (*taken, *lost))
        return _Arrived(
            list(zip(versions, parts, strict=True)),
            gone,
            timing.kept(state, queue.now_s, joules) | self._kept(state, queue, done),
            {t.client: _noted(t, done) for t in taken},
        )

    @property
    def _population(self) -> int:
        return self.federation.population

    def _begin(
        self,
        order: messages.Train,
        concurrency: int,
        now_s: float,
        busy: frozenset[int],
        free: int,
        draw: int,
    ) -> tuple[float, list[Task]]:
        """Draw clients that are there and idle, and have them begin."""
        idle = [client for client in range(self._population) if client not in busy]
        there = self.clock.fleet.online(idle, now_s)
        if not there and free == concurrency:  # nobody is at work, and time must go on
            now_s = self.clock.fleet.wait_for(idle, now_s, 1)
            there = self.clock.fleet.online(idle, now_s)
        stream = rng.stream(self.federation.config.seed, "cohort", round=draw)
        drawn = sampling.uniform(len(there), free, stream)
        return now_s, [self._task(there[i], order, now_s) for i in drawn]

    def _task(self, client: int, order: messages.Train, now_s: float) -> Task:
        version = order.round - 1
        device = self.clock.fleet.device(client)
        spans = device.spans(self.clock.work(client, order))
        leaves_s = self.clock.fleet.availability(client).online_until(now_s)
        ends_s = now_s + spans.total_s
        if leaves_s is None or ends_s <= leaves_s:
            return Task(client, version, now_s, ends_s, device.joules(spans))
        joules = device.joules(spans.until(leaves_s - now_s))
        return Task(client, version, now_s, leaves_s, joules, is_lost=True)

    def _drops_out(self, task: Task) -> bool:
        config = self.federation.config
        share, seed, number = config.rounds.dropout, config.seed, task.version + 1
        drawn = sampling.dropouts([task.client], share, seed=seed, round=number)
        return any(phase in sampling.BEFORE_THE_SUM for phase in drawn.values())

    def _kept(self, state: State, queue: Queue, done: int) -> State:
        """Return what the state keeps: the queue, and the models that are in use."""
        models = {f"{_MODEL}{v}": _model(state, v, done) for v in sorted(queue.versions())}
        return {_QUEUE: to_tensor(queue), **models}


def _noted(task: Task, done: int) -> dict[str, float]:
    return {
        "simulated/seconds": task.ends_s - task.begins_s,
        "simulated/joules": task.joules,
        "staleness": float(done - task.version),
    }


@dataclass(slots=True)
class _Real:
    """Real machines: who answers first counts first. What a stopped run had at work is lost.

    `working`: by message, who has it, from which version, until when. `arrived`: who has answered
    and is not counted yet.
    """

    carrier: Mailbox
    nodes: Sequence[int]
    federation: Federation
    form: FixedPoint
    working: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    arrived: list[tuple[int, int, Message]] = field(default_factory=list)
    draws: int = 0

    def next(self, state: State, number: int, seconds: dict[str, float]) -> _Arrived:
        """Return what makes step `number`, which begins with a state."""
        done, buffer = number - 1, self.federation.config.strategy.buffer
        lost: dict[int, str] = {}
        timed(seconds, "train", partial(self._wait, state, done, buffer, lost))
        taken, self.arrived = self.arrived[:buffer], self.arrived[buffer:]
        parts = []
        for version in sorted({version for _, version, _ in taken}):
            order = _order(self.federation, state, version, done, self.form)
            own = [(client, reply) for client, other, reply in taken if other == version]
            ids, replies = [client for client, _ in own], [reply for _, reply in own]
            config, kind = self.federation.config, messages.TRAIN
            (answers,) = read_each(replies, self.nodes, [(order, ids)], kind, config, self.form)
            parts.append((version, answers))
        used = {version for _, version, _ in (*self.working.values(), *self.arrived)}
        return _Arrived(parts, lost, {f"{_MODEL}{v}": _model(state, v, done) for v in sorted(used)})

    def _wait(self, state: State, done: int, buffer: int, lost: dict[int, str]) -> None:
        """Have clients work until enough have answered."""
        failures: Counter[int] = Counter()
        rests: dict[int, float] = {}
        while len(self.arrived) < buffer:
            tired = {client for client, count in failures.items() if count >= _MOST_FAILURES}
            resting = {client for client, until in rests.items() if monotonic() < until}
            gone = self._post(state, done, tired | resting) | self._collected()
            lost |= gone
            failures.update(gone.keys())
            rests |= dict.fromkeys(gone, monotonic() + _REST_S)
            if len(self.arrived) >= buffer:
                return
            if not self.working and not self._idle(tired):
                raise RunFailedError(
                    f"step {done + 1}: {len(self.arrived)} of {buffer} answers came, and every "
                    f"other client has failed {_MOST_FAILURES} times",
                    [lost_record(c, "train", why, bytes_down=0) for c, why in lost.items()],
                )
            self.carrier.rest(len(self.working))

    def _idle(self, excepted: Set[int]) -> list[int]:
        """Return who can begin: is not at work, and has not answered to this step."""
        busy = {client for client, _, _ in (*self.working.values(), *self.arrived)}
        return [c for c in range(self.federation.population) if c not in busy | excepted]

    def _collected(self) -> dict[int, str]:
        """Take the replies that are there; return whose is an error, or too late, and why."""
        lost = {}
        waiting = {key: self.nodes[client] for key, (client, _, _) in self.working.items()}
        for key, reply in self.carrier.collect(waiting):
            client, version, _ = self.working.pop(key)
            if reply.has_error():
                lost[client] = reply.error.reason or "no reason given"
            else:
                self.arrived.append((client, version, reply))
        for key in [key for key, (_, _, ends) in self.working.items() if monotonic() > ends]:
            client, _, _ = self.working.pop(key)
            lost[client] = "no answer within the time allowed"
        return lost

    def _post(self, state: State, done: int, resting: Set[int]) -> dict[int, str]:
        """Have as many clients at work as should be, from the newest model.

        Returns who was drawn and has no node, and why.
        """
        config, population = self.federation.config, self.federation.population
        free = min(config.rounds.cohort or population, population) - len(self.working)
        idle = self._idle(resting)
        if free <= 0 or not idle:
            return {}
        self.draws += 1
        stream = rng.stream(config.seed, "cohort", round=done + self.draws)
        drawn = [idle[i] for i in sampling.uniform(len(idle), free, stream)]
        order = _order(self.federation, state, done, done, self.form)
        limit_s = config.rounds.timeout_s or _LIMIT_S
        posted = self.carrier.post(
            messages.model_content(order),
            [self.nodes[client] for client in drawn],
            messages.TRAIN,
            ttl=limit_s,
            group_id=str(done + 1),
        )
        client_of = {self.nodes[client]: client for client in drawn}
        ends = monotonic() + limit_s + _GRACE_S
        self.working |= {key: (client_of[node], done, ends) for key, node in posted.items()}
        there = {client_of[node] for node in posted.values()}
        return {client: "its node is not there" for client in drawn if client not in there}
