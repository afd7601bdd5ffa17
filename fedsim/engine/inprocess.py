"""`InProcessGrid`: every client in this process, one after another. The reference of all grids."""

from collections.abc import Callable, Iterator, Sequence
from time import time

from flwr.app import Context, Message, RecordDict

from fedsim.engine.blocks import Block, Fold, Population, run_block
from fedsim.engine.grid import BlockGrid

__all__ = ["InProcessGrid"]


class InProcessGrid(BlockGrid):
    """A Flower `Grid` that runs a ClientApp here; `fold` may merge the replies of a block."""

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        population: Population,
        *,
        fold: Fold | None = None,
        size: int | None = None,
    ) -> None:
        """`size`: clients per block; it changes nothing here but how often progress is told."""
        BlockGrid.__init__(self, population, self._run_here, size=size)
        self._app, self._fold = app, fold

    def _run_here(
        self, content: RecordDict, blocks: Sequence[Block], deadline: float | None
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        for block in blocks:
            if deadline is not None and time() > deadline:
                return
            replies, states = run_block(self._app, self.population, content, block, self._fold)
            yield replies, states, len(block.items)
