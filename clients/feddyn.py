"""FedDyn's local training: a linear term and a pull that make local optima agree.

Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, equation 1 and
Algorithm 1: minimize L_k(theta) - <g_k, theta> + alpha / 2 |theta - theta_server|^2, then g_k <-
g_k - alpha (theta_k - theta_server). The strategy `feddyn` is the server's half and has alpha.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.clients._control import added, of_parameters, pulled
from fedsim.clients._local import train_locally
from fedsim.core import Adjust, ClientContext, Memo, Recipe, Task, Update

__all__ = ["FedDyn"]

_LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class FedDyn:
    """Like `sgd`, on the client's loss with FedDyn's two terms; every client weighs 1."""

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    goes_with: ClassVar = ("feddyn",)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard with both terms; the linear one is kept for the next time."""
        device = task.model.device
        alpha = float(task.extras["alpha"]) if "alpha" in task.extras else 0.0
        linear = memo.get(_LINEAR, torch.zeros(task.model.shape)).to(device)
        adjust = _with_pull(added(task.module, -linear), alpha)
        recipe = Recipe(self.epochs, self.steps, self.batch_size, adjust=adjust)
        update, _ = train_locally(task, {}, ctx, recipe)
        moved = of_parameters(task.module, update.vector.to(device))
        kept = {_LINEAR: (linear - alpha * moved).cpu()}
        return replace(update, weight=1.0), kept


def _with_pull(adjust: Adjust, alpha: float) -> Adjust:
    def both(
        gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor]
    ) -> list[Tensor]:
        return pulled(adjust(gradients, parameters, anchors), parameters, anchors, alpha)

    return both
