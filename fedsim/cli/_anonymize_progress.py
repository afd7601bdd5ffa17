"""Progress of work on a table, on stderr: one line on a terminal, few lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["stages"]


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Give what is told of the stage and of the share of it that is done."""
    is_terminal = sys.stderr.isatty()
    last, at = "", 0.0

    def say(stage: str, share: float) -> None:
        nonlocal last, at
        now = time.monotonic()
        is_new = stage != last
        if not is_new and at + (0.1 if is_terminal else 1.0) > now:
            return
        if is_terminal:
            end = "\n" if is_new and last else ""
            sys.stderr.write(f"{end}\r{stage} {share:4.0%} ")
        else:
            sys.stderr.write(f"{stage} {share:.0%}\n")
        sys.stderr.flush()
        last, at = stage, now

    try:
        yield say
    finally:
        if is_terminal and last:
            sys.stderr.write("\n")
