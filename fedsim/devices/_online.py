"""When a device is there: always, in the periods of a trace that repeats, or by chance."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["ALWAYS", "Availability", "Periods", "Renewals"]


class Availability(Protocol):
    """When a client takes part: asked with simulated seconds, in any order."""

    def online_until(self, now_s: float) -> float | None:
        """Return when a client that is there at a time leaves; None where it is not there."""
        ...

    def next_online(self, now_s: float) -> float:
        """Return when a client is there next: `now_s` itself where it is; infinity for never."""
        ...


@dataclass(frozen=True, slots=True)
class _Always:
    def online_until(self, now_s: float) -> float | None:
        return math.inf

    def next_online(self, now_s: float) -> float:
        return now_s


ALWAYS: Availability = _Always()


@dataclass(frozen=True, slots=True)
class Periods:
    """Periods [begin, end) in which a client is there, ascending, within a trace of `span_s`.

    The trace repeats for ever; simulated second 0 is at `offset_s` of it. One that reaches to its
    end and one from its beginning are one.

    >>> day = Periods(((2.0, 5.0), (8.0, 10.0)), span_s=10.0)
    >>> day.online_until(3.0), day.online_until(6.0), day.next_online(6.0), day.online_until(9.0)
    (5.0, None, 8.0, 10.0)
    """

    periods: Sequence[tuple[float, float]]
    span_s: float
    offset_s: float = 0.0

    def online_until(self, now_s: float) -> float | None:
        """Return when a client that is there at a time leaves; None where it is not there."""
        turn, place = self._place(now_s)
        for begin, end in self.periods:
            if begin <= place < end:
                return self._left(turn, end)
        return None

    def next_online(self, now_s: float) -> float:
        """Return when a client is there next; infinity where it never is."""
        if not self.periods:
            return math.inf
        turn, place = self._place(now_s)
        for begin, end in self.periods:
            if place < end:
                return now_s if place >= begin else self._time(turn, begin)
        return self._time(turn + 1, self.periods[0][0])

    def _place(self, now_s: float) -> tuple[float, float]:
        turn = (now_s + self.offset_s) // self.span_s
        return turn, now_s + self.offset_s - turn * self.span_s

    def _time(self, turn: float, place: float) -> float:
        return turn * self.span_s + place - self.offset_s

    def _left(self, turn: float, end: float) -> float:
        if end < self.span_s or self.periods[0][0] > 0:
            return self._time(turn, end)
        first = self.periods[0][1]
        return math.inf if first >= self.span_s else self._time(turn + 1, first)


@dataclass(slots=True)
class Renewals:
    """Turns of being there and not, each drawn: `online_s()` and `offline_s()` give the next one.

    They are drawn one after another, as far as anybody has asked: what a client does at a time
    depends on its stream alone. `begins_s` is in the middle of the first turn, which `is_online`.
    """

    online_s: Callable[[], float]
    offline_s: Callable[[], float]
    is_online: bool
    begins_s: float
    _ends: list[float] = field(default_factory=list)

    def online_until(self, now_s: float) -> float | None:
        """Return when a client that is there at a time leaves; None where it is not there."""
        turn = self._turn(now_s)
        return self._ends[turn] if self._is_online(turn) else None

    def next_online(self, now_s: float) -> float:
        """Return when a client is there next."""
        turn = self._turn(now_s)
        return now_s if self._is_online(turn) else self._ends[turn]

    def _turn(self, now_s: float) -> int:
        while not self._ends or self._ends[-1] <= now_s:
            draw = self.online_s if self._is_online(len(self._ends)) else self.offline_s
            before = self._ends[-1] if self._ends else -self.begins_s
            self._ends.append(before + draw())
        return bisect_right(self._ends, now_s)

    def _is_online(self, turn: int) -> bool:
        return (turn % 2 == 0) == self.is_online
