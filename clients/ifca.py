"""IFCA on a client: train the one of several models that fits the client's examples best.

Ghosh, Chung, Yin and Ramchandran, "An efficient framework for clustered federated learning",
NeurIPS 2020, Algorithm 1: the cluster of a client is argmin_j F_i(theta_j) (line 7), and local
training begins at that model (model averaging, lines 12 to 16). The strategy `ifca` is the server's
half. The change and who it belongs to go up as lanes, so that also a sum shows no client's cluster.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import set_vector

__all__ = ["Ifca"]


@dataclass(frozen=True, slots=True)
class Ifca:
    """Like `sgd`, from the best of `clusters` models for this client's examples."""

    clusters: Annotated[int, Ge(1)] = 2
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    goes_with: ClassVar = ("ifca",)
    contract: ClassVar = {"clusters": 1}

    @property
    def lanes(self) -> tuple[tuple[str, int | None], ...]:
        """Return what is sent beside the change of the first model."""
        others = [(f"cluster/{j}", None) for j in range(1, self.clusters)]
        return (*others, ("members", self.clusters))

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train the best model and send its change; nothing of the others."""
        own, model = self._best(task)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        update, _ = train_locally(replace(task, model=model), {}, ctx, recipe)
        nothing = torch.zeros_like(update.vector)
        changes = [update.vector if j == own else nothing for j in range(self.clusters)]
        members = torch.zeros(self.clusters)
        members[own] = 1.0
        lanes = {f"cluster/{j}": changes[j] for j in range(1, self.clusters)}
        lanes["members"] = members
        return replace(update, vector=changes[0], weight=1.0, lanes=lanes), {}

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the best model for the client's examples."""
        self._best(task)
        return task.module

    def _best(self, task: Task) -> tuple[int, Tensor]:
        """Put the best model into the module; return which one it is, and its vector."""
        models = [task.model, *(task.extras[f"cluster/{j}"] for j in range(1, self.clusters))]
        losses = []
        for model in models:
            set_vector(task.module, model)
            with torch.no_grad():
                losses.append(float(task.loss(task.module.eval()(task.x), task.y)))
        own = min(range(len(models)), key=losses.__getitem__)
        set_vector(task.module, models[own])
        return own, models[own]
