"""FedNova's local training: the update is divided by the length of the path it came by.

Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated optimization",
NeurIPS 2020, section 4 and equation 7: |a_i|_1 is the number of steps for plain SGD; with momentum
rho, [tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho); with a proximal pull of strength mu and rate
eta, [1 - (1 - eta mu)^tau] / (eta mu). The strategy `fednova` is the server's half.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from fedsim.clients._control import must_descend
from fedsim.clients._local import train_locally
from fedsim.clients.fedprox import FedProx
from fedsim.core import ClientContext, Memo, Task, Update
from fedsim.strategies.fednova import LENGTH_UNIT
from fedsim.training import step_count

__all__ = ["FedNova", "path_length"]


@dataclass(frozen=True, slots=True)
class FedNova:
    """Like `sgd`, or with `mu` like `fedprox`, normalized by the work that was done."""

    mu: Annotated[float, Ge(0)] = 0.0
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    lanes: ClassVar = (("length", 1),)
    goes_with: ClassVar = ("fednova",)
    late: ClassVar = "partial"

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; send the normalized update, and its length by its weight."""
        optimizer = task.optimizer
        why = "the length of other paths is not known"
        must_descend(optimizer, f"sgd or gd without dampening: {why}", may_dampen=False)
        recipe = FedProx(self.mu, self.epochs, self.steps, self.batch_size).recipe
        update, _ = train_locally(task, {}, ctx, recipe)
        count = step_count(len(task.y), recipe, full_batch=optimizer.full_batch)
        momentum = getattr(optimizer, "momentum", 0.0)
        length = path_length(count, momentum, optimizer.lr * ctx.lr_factor * self.mu)
        lane = torch.tensor([update.weight * length / LENGTH_UNIT], dtype=torch.float64)
        return replace(update, vector=update.vector / length, lanes={"length": lane}), {}


def path_length(steps: int, momentum: float = 0.0, pull: float = 0.0) -> float:
    """Return |a|_1 of that many steps: how far gradients of 1 lead; `pull` is learning rate x mu.

    >>> path_length(5)
    5.0
    """
    velocity, length = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0 - pull * length
        length += velocity
    return length
