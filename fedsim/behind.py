"""Writing behind: what was computed goes to disk in a thread while the next round is computed."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Behind"]

_TURN_S = 0.0002

Written = TypeVar("Written")


class Behind(Generic[Written]):
    """Does one piece of work at a time in a thread, in order; nothing is left undone at its end.

    A piece begins when the caller says that it has time, with `collect`: what others wait for comes
    first. What it returns goes to `done`, and what it raises is raised, in the caller's own thread:
    at the next call of `submit` or `collect`, or at the end. Meanwhile Python's threads take turns
    more often than every 5 ms: whoever hands out work must not wait that long for each small step.
    """

    def __init__(self, done: Callable[[Written], None]) -> None:
        self._done = done
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fedsim-writer")
        self._next: Callable[[], Written] | None = None
        self._pending: Future[Written] | None = None
        self._turn_s = sys.getswitchinterval()

    def __enter__(self) -> "Behind[Written]":
        sys.setswitchinterval(min(_TURN_S, self._turn_s))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._begin()
        self._pool.shutdown(wait=True)
        sys.setswitchinterval(self._turn_s)
        if kind is None:  # else that is what the caller hears of
            self.collect(wait=True)

    def submit(self, work: Callable[[], Written]) -> None:
        """Take a piece of work once the one before is done."""
        self.collect(wait=True)
        self._next = work

    def collect(self, *, wait: bool) -> None:
        """Begin what there is, hand over what is done; `wait` until all is.

        Raises what the work raised.
        """
        self._begin()
        pending = self._pending
        if pending is not None and (wait or pending.done()):
            self._pending = None
            self._done(pending.result())

    def _begin(self) -> None:
        if self._next is not None:
            self._pending, self._next = self._pool.submit(self._next), None
