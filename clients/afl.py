"""AFL's local training: like `sgd`, and the loss of the model that was sent goes with the update.

Mohri, Sivek and Suresh, "Agnostic federated learning", ICML 2019, Figure 2: the gradient of the
mixture by lambda is what clients' losses are. The strategy `afl` is the server's half.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.strategies.afl import CLIENT_UNIT

__all__ = ["Afl"]


@dataclass(frozen=True, slots=True)
class Afl:
    """Like `sgd`; before it, the loss of the global model on the whole shard is measured."""

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    lanes: ClassVar = (("client", 1), ("loss", 1))
    goes_with: ClassVar = ("afl",)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Measure the loss of the global model on the shard, then train."""
        with torch.no_grad():
            loss = float(task.loss(task.module.eval()(task.x), task.y))
        update, _ = train_locally(task, {}, ctx, Recipe(self.epochs, self.steps, self.batch_size))
        said = {"client": ctx.client / CLIENT_UNIT, "loss": loss}
        lanes = {name: torch.tensor([own], dtype=torch.float64) for name, own in said.items()}
        return replace(update, lanes=lanes), {}
