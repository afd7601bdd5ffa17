"""`InProcessGrid`: every client in this process, one after another. The reference of all grids."""

from collections.abc import Callable, Iterator, Sequence
from time import time

from flwr.app import Context, Message, RecordDict

from fedsim.engine.blocks import Block, Fold, Population, run_block
from fedsim.engine.grid import BlockGrid

__all__ = ["in_process_grid"]


def in_process_grid(
    app: Callable[[Message, Context], Message],
    population: Population,
    *,
    fold: Fold | None = None,
    size: int | None = None,
) -> BlockGrid:
    """Return a Flower `Grid` that runs `app` here. `fold` may merge the replies of a block."""

    def run(
        content: RecordDict, blocks: Sequence[Block], deadline: float | None
    ) -> Iterator[tuple[list[Message], dict[int, RecordDict], int]]:
        for block in blocks:
            if deadline is not None and time() > deadline:
                return
            replies, states = run_block(app, population, content, block, fold)
            yield replies, states, len(block.items)

    return BlockGrid(population, run, size=size)
