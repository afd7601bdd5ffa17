"""The virtual clock of a synchronous round: who is in time, who is not, and when the round ends.

Pure: devices and tasks in, seconds out. The rules are those of Bonawitz et al., "Towards federated
learning at scale: system design", MLSys 2019, section 2.2: more clients may be asked than are
counted, a round closes when enough have answered, or at its deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedsim.devices import Fleet, Spans, Work

__all__ = ["Rules", "Timetable", "timetable"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a round closes: when `wanted` clients have answered, or after `deadline_s`.

    `epochs`: how many passes a client's examples in `Work` are; one that would be late then does as
    many whole ones as it has time for, at least one. None: it does all of its work, or is late.
    """

    wanted: int
    deadline_s: float | None = None
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Timetable:
    """A round as it goes by the virtual clock; all times in simulated seconds since the run began.

    `epochs`: by client that counts, how many passes it does; None where it does all of its work.
    `lost`: why the others do not count. `seconds`: how long each was at work. `downloads`: who got
    the model at all.
    """

    began_s: float
    ended_s: float
    epochs: Mapping[int, int | None]
    lost: Mapping[int, str] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    joules: Mapping[int, float] = field(default_factory=dict)
    downloads: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Task:
    """What becomes of one client: `answers_s` after the round began, or `gone_s`, or neither."""

    spans: Spans
    epochs: int | None = None
    answers_s: float | None = None
    gone_s: float | None = None
    lost: str = ""


def timetable(fleet: Fleet, works: Mapping[int, Work], began_s: float, rules: Rules) -> Timetable:
    """Return how a round goes whose clients all begin at once; who is asked is in `works`.

    It ends with the answer of the last client wanted. Where fewer answer, it ends when every other
    one is known to be gone, and at the deadline at the latest. Of clients that answer at the same
    time the lower number counts. Whoever is still at work when the round ends stops.
    """
    tasks = {c: _task(fleet, c, works[c], began_s, rules) for c in sorted(works)}
    answers = sorted((t.answers_s, c) for c, t in tasks.items() if t.answers_s is not None)
    counted = [client for _, client in answers[: rules.wanted]]
    ended_s = _end(tasks, answers, rules)
    is_closed = len(answers) >= rules.wanted
    closed = f"not needed: {rules.wanted} had answered after {ended_s:.6g} s"
    lost, seconds, joules = {}, {}, {}
    for client, task in tasks.items():
        stops_s = ended_s if task.gone_s is None else min(task.gone_s, ended_s)
        done = task.spans.until(stops_s)
        waiting_s = max(ended_s - task.spans.total_s, 0.0) if client in counted else 0.0
        seconds[client] = done.total_s
        joules[client] = fleet.device(client).joules(done, waiting_s)
        if client not in counted:
            is_gone = task.gone_s is not None and task.gone_s <= ended_s
            reason = task.lost if is_gone or not is_closed else closed
            lost[client] = f"{reason} (simulated)"
    return Timetable(
        began_s,
        began_s + ended_s,
        {client: tasks[client].epochs for client in counted},
        lost,
        seconds,
        joules,
        frozenset(client for client in tasks if tasks[client].gone_s != 0.0),
    )


def _task(fleet: Fleet, client: int, work: Work, began_s: float, rules: Rules) -> _Task:
    leaves_s = fleet.availability(client).online_until(began_s)
    spans = fleet.device(client).spans(work)
    if leaves_s is None:
        return _Task(spans, gone_s=0.0, lost="offline")
    epochs, limit = rules.epochs, rules.deadline_s
    if epochs is not None and limit is not None and spans.total_s > limit:
        epochs = _fitting(spans, epochs, limit)
        if epochs:
            spans = replace(spans, compute_s=spans.compute_s * epochs / (rules.epochs or 1))
    if leaves_s < began_s + spans.total_s and (limit is None or leaves_s < began_s + limit):
        away_s = leaves_s - began_s
        return _Task(spans, gone_s=away_s, lost=f"went offline after {away_s:.6g} s")
    if limit is not None and spans.total_s > limit:
        return _Task(spans, lost=f"late: it takes {spans.total_s:.6g} s, and has {limit:.6g}")
    return _Task(spans, epochs, answers_s=spans.total_s)


def _fitting(spans: Spans, epochs: int, limit_s: float) -> int:
    """Return how many of a task's passes fit into a time; 0 for none."""
    one_s = spans.compute_s / epochs
    free_s = limit_s - spans.down_s - spans.up_s
    found = min(epochs, int(free_s / one_s)) if free_s > 0 and one_s > 0 else 0
    # Division rounds: what is computed of the passes must be within the time, bit for bit.
    while found and spans.down_s + spans.compute_s * found / epochs + spans.up_s > limit_s:
        found -= 1
    return found


def _end(tasks: Mapping[int, _Task], answers: list[tuple[float, int]], rules: Rules) -> float:
    """Return how long a round takes."""
    if len(answers) >= rules.wanted:
        return answers[rules.wanted - 1][0]
    known = [t.gone_s if t.answers_s is None else t.answers_s for t in tasks.values()]
    times = [rules.deadline_s if time is None else time for time in known]  # late: at the deadline
    return max((time for time in times if time is not None), default=0.0)
