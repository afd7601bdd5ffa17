"""Local training of FedAvg: a few epochs of the client optimizer on the client's own shard.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, Algorithm 1 (ClientUpdate). Which optimizer steps is a setting of its own.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["Sgd"]


@dataclass(frozen=True, slots=True)
class Sgd:
    """Train in batches on the client's own shard, with the client optimizer.

    `epochs` passes in batches of `batch_size`, or exactly `steps` batches where that is set.
    `batch_size` 0 takes the whole shard at once.
    `keep_optimizer`: the client's optimizer (momentum, second moments) lives on between rounds.
    """

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32
    keep_optimizer: bool = False

    @property
    def recipe(self) -> Recipe:
        """Return the steps of local training."""
        return Recipe(self.epochs, self.steps, self.batch_size, self.keep_optimizer)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update weighs as many as there are examples."""
        return train_locally(task, memo, ctx, self.recipe)
