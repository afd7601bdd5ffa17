"""q-FedAvg's local training: the update times the client's loss before it, to the power q.

Li et al., "Fair resource allocation in federated learning", ICLR 2020, Algorithm 2, line 6: Delta_k
= F_k^q dw_k and h_k = q F_k^(q-1) |dw_k|^2 + L F_k^q with dw_k = L (w - w_k) and L = 1 / learning
rate. Both are sent over L. The strategy `qfedavg` is the server's half and has q.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["QFedAvg"]

_LEAST = 1e-10  # a loss of zero has no power below zero


@dataclass(frozen=True, slots=True)
class QFedAvg:
    """Like `sgd`; the update weighs as the client's loss says."""

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    lanes: ClassVar = (("h", 1),)
    goes_with: ClassVar = ("qfedavg",)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Measure the loss of the global model on the shard, then train."""
        q = float(task.extras["q"]) if "q" in task.extras else 0.0
        with torch.no_grad():
            loss = max(float(task.loss(task.module.eval()(task.x), task.y)), _LEAST)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        update, _ = train_locally(task, {}, ctx, recipe)
        steepness = 1 / (task.optimizer.lr * ctx.lr_factor)
        moved = float(update.vector.double().square().sum())
        h = q * loss ** (q - 1) * steepness * moved + loss**q
        lane = torch.tensor([h], dtype=torch.float64)
        return replace(update, vector=update.vector * loss**q, weight=1.0, lanes={"h": lane}), {}
