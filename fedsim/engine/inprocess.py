"""`InProcessGrid`: every client in this process, one after another. The reference of all grids."""

from collections.abc import Iterator, Sequence
from time import time

from flwr.app import Message, RecordDict

from fedsim.engine.blocks import (
    Block,
    Handlers,
    Population,
    run_block,
)
from fedsim.engine.grid import BlockGrid

__all__ = ["InProcessGrid"]


class InProcessGrid(BlockGrid):
    """A Flower `Grid` that runs clients here."""

    def __init__(
        self,
        handlers: Handlers,
        population: Population,
        *,
        size: int | None = None,
    ) -> None:
        """`size`: clients per block; unset: by the number of messages."""
        BlockGrid.__init__(self, population, self._run_here, size=size)
        self._handlers = handlers

    def _run_here(
        self, jobs: Sequence[tuple[RecordDict, Block]], deadline: float | None
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        for content, block in jobs:
            if deadline is not None and time() > deadline:
                return
            replies, states, incident = run_block(self._handlers, self.population, content, block)
            if incident:
                self.incidents.append(incident)
            yield replies, states, len(block)
