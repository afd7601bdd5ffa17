"""SCAFFOLD's local training: every gradient is corrected by how this client differs from all.

Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning", ICML 2020,
Algorithm 1: y <- y - eta_l (g(y) - c_i + c), and option II of line 12, c_i+ = c_i - c + (x - y) /
(K eta_l). The strategy `scaffold` is the server's half.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.clients._control import added, must_descend, of_parameters
from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.training import step_count

__all__ = ["Scaffold"]

_CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Like `sgd` with plain steps, each with the correction c - c_i; sends how c_i changed.

    The paper's steps have no momentum. With momentum (`optimizer.momentum`), as NIID-Bench runs
    it, K eta_l still stands for the distance, which momentum makes longer.
    """

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    lanes: ClassVar = ((_CONTROL, None),)
    goes_with: ClassVar = ("scaffold",)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard with the correction; the control is kept for the next time."""
        why = "(x - y) / (K eta) is a mean gradient for these alone"
        must_descend(task.optimizer, f"sgd or gd: {why}")
        nothing = torch.zeros_like(task.model)
        everyone = task.extras.get(_CONTROL, nothing)
        own = memo.get(_CONTROL, nothing.cpu()).to(task.model.device)
        recipe = self._recipe(task, everyone - own)
        update, _ = train_locally(task, {}, ctx, recipe)
        count = step_count(len(task.y), recipe, full_batch=task.optimizer.full_batch)
        rate = count * task.optimizer.lr * ctx.lr_factor
        moved = of_parameters(task.module, update.vector.to(own.device)) / -rate
        change = (moved - everyone).cpu()
        return replace(update, lanes={_CONTROL: change}), {_CONTROL: own.cpu() + change}

    def _recipe(self, task: Task, correction: Tensor) -> Recipe:
        return Recipe(
            self.epochs, self.steps, self.batch_size, adjust=added(task.module, correction)
        )
