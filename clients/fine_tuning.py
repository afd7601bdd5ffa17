"""Local fine-tuning: FedAvg, whose model each client trains a little further before it uses it.

Yu, Bagdasaryan and Shmatikov, "Salvaging federated learning by local adaptation", 2020, section
4.1 (fine-tuning); Cheng, Chadha and Duchi, "Fine-tuning is fine in federated learning", 2021. The
federated evaluation tests every client's model after that.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import nn

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["FineTuning"]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Like `sgd`; a client uses the global model after `own_epochs` on its own examples."""

    own_epochs: Annotated[int, Ge(1)] = 5
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    @property
    def recipe(self) -> Recipe:
        """Return the steps of local training."""
        return Recipe(self.epochs, self.steps, self.batch_size)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update weighs as many as there are examples."""
        return train_locally(task, memo, ctx, self.recipe)

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the global model after the client's own epochs."""
        train_locally(task, {}, ctx, Recipe(self.own_epochs, None, self.batch_size))
        return task.module
