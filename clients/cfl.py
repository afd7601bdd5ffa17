"""Clustered federated learning on a client: train the model of the client's own cluster.

Sattler, Mueller and Samek, "Clustered federated learning: model-agnostic distributed multitask
optimization under privacy constraints", IEEE TNNLS 2021, Algorithm 4. Clusters are found by the
server: the strategy `cfl`, whose docstring says the rest.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import set_vector

__all__ = ["Cfl"]


@dataclass(frozen=True, slots=True)
class Cfl:
    """Like `sgd`, from the model of this client's cluster."""

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    goes_with: ClassVar = ("cfl",)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update is the change of the cluster's model."""
        model = _own(task, ctx)
        set_vector(task.module, model)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        update, _ = train_locally(replace(task, model=model), {}, ctx, recipe)
        return update, {}

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the model of the client's cluster."""
        set_vector(task.module, _own(task, ctx))
        return task.module


def _own(task: Task, ctx: ClientContext) -> Tensor:
    if "cluster_of" not in task.extras:  # nothing has been split yet
        return task.model
    own = int(task.extras["cluster_of"][ctx.client])
    return task.extras[f"cluster/{own}"] if own else task.model
