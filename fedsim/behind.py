"""Writing behind: what was computed goes to disk in a thread while the next round is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Behind"]

Written = TypeVar("Written")


class Behind(Generic[Written]):
    """Does one piece of work at a time in a thread, in order; nothing is left undone at its end.

    What a piece returns goes to `done`, and what it raises is raised, in the caller's own thread:
    at the next call of `submit` or `collect`, or at the end.
    """

    def __init__(self, done: Callable[[Written], None]) -> None:
        self._done = done
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fedsim-writer")
        self._pending: Future[Written] | None = None

    def __enter__(self) -> "Behind[Written]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:  # else that is what the caller hears of
            self.collect(wait=True)

    def submit(self, work: Callable[[], Written]) -> None:
        """Begin a piece of work once the one before is done."""
        self.collect(wait=True)
        self._pending = self._pool.submit(work)

    def collect(self, *, wait: bool) -> None:
        """Hand over what is done; `wait` until all is. Raises what the work raised."""
        pending = self._pending
        if pending is not None and (wait or pending.done()):
            self._pending = None
            self._done(pending.result())
