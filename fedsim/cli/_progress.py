"""Progress on stderr: a bar on a terminal, one line per round (at most one a second) elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsim.events import ClientsDone, Event, RoundDone, RunDone, RunStarted, Stage
from fedsim.report.section import bytes_text, number, seconds_text

__all__ = ["progress"]

_RECENT = 10  # rounds that the speed and the time left are taken from


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """Show a run's events as long as the block lasts."""
    if sys.stderr.isatty():
        with _bar() as listener:
            yield listener
    else:
        yield _Lines()


class _Count:
    """Running totals: what both forms of progress show."""

    def __init__(self) -> None:
        self.first = self.rounds = 1
        self.down = self.up = self.lost = 0
        self.metrics: dict[str, float] = {}
        self.recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def begin(self, event: RunStarted) -> None:
        self.first, self.rounds = event.first_round, event.rounds

    def add(self, event: RoundDone) -> None:
        record = event.record
        if record.round == self.first + 1:
            self.recent.clear()  # the first round waited for workers to start: not typical
        self.recent.append((record.real_seconds, record.cohort))
        self.down += record.bytes_down
        self.up += record.bytes_up
        self.lost += record.lost
        self.metrics |= record.metrics

    def metric(self) -> str:
        """Return the first of the metrics a person follows, by how telling it is."""
        for part in ("test", "federated", "train"):
            names = [n for n in self.metrics if n.startswith(f"{part}/") and n.count("/") == 1]
            best = [n for n in names if not n.endswith("/loss")] or names
            if best:
                return f"{best[0]} {number(self.metrics[best[0]])}"
        return ""

    def text(self) -> str:
        spent = sum(seconds for seconds, _ in self.recent)
        rate = sum(clients for _, clients in self.recent) / spent if spent else 0.0
        parts = [self.metric(), f"{rate:.3g} clients/s" if rate else ""]
        parts.append(f"{bytes_text(self.down)} down {bytes_text(self.up)} up")
        if (simulated := self.metrics.get("simulated/seconds")) is not None:
            parts.append(f"{seconds_text(simulated)} simulated")
        if self.lost:
            parts.append(f"{self.lost} lost")
        return ", ".join(part for part in parts if part)

    def left(self, done: int) -> str:
        """Return the time left in words; nothing after the first round, which is not typical."""
        if done in (self.first, self.rounds):
            return ""
        spent = sum(seconds for seconds, _ in self.recent)
        return seconds_text(spent / len(self.recent) * (self.rounds - done))


class _Lines:
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self._count = _Count()
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        count = self._count
        if isinstance(event, Stage):
            self._say(event.text)
        elif isinstance(event, RunStarted):
            count.begin(event)
            span = f"rounds {event.first_round} to {event.rounds}"
            self._say(f"run {event.run_id}: {span}, {event.clients:,} clients")
        elif isinstance(event, RoundDone):
            count.add(event)
            done = event.record.round
            now = time.monotonic()
            is_end = done in (count.first, count.rounds)
            if is_end or now - self._last >= 1.0:
                self._last = now
                left = count.left(done)
                more = f", {left} left" if left else ""
                self._say(f"round {done}/{count.rounds}: {count.text()}{more}")
        elif isinstance(event, RunDone):
            self._say(f"{event.result.status}: {event.result.run_id}")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def _bar() -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    count = _Count()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="cyan", markup=False),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task("starting", total=None, detail="", left="")

        def listen(event: Event) -> None:
            if isinstance(event, Stage):
                console.print(event.text, style="dim", markup=False, highlight=False)
            elif isinstance(event, RunStarted):
                count.begin(event)
                console.print(f"run {event.run_id}", style="bold", markup=False, highlight=False)
                done = event.first_round - 1
                title = f"round {done}/{event.rounds}"
                bar.update(task, total=event.rounds, completed=done, description=title)
            elif isinstance(event, ClientsDone):
                whole = event.round - 1 + 0.99 * event.done / max(event.asked, 1)
                detail = f"client {event.done}/{event.asked}, {count.text()}"
                bar.update(task, completed=max(whole, event.round - 1), detail=detail)
            elif isinstance(event, RoundDone):
                count.add(event)
                done = event.record.round
                title = f"round {done}/{count.rounds}"
                left = f"ETA {count.left(done)}" if count.left(done) else ""
                bar.update(task, completed=done, description=title, detail=count.text(), left=left)

        yield listen
