"""FedSGD: one step on the whole shard, so that the mean update is a step on everybody's data.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, section 2 (FedAvg with B = infinity and E = 1).
"""

from dataclasses import dataclass
from typing import ClassVar

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["FedSgd"]


@dataclass(frozen=True, slots=True)
class FedSgd:
    """Take one step on the whole shard; it has no settings."""

    recipe: ClassVar = Recipe(steps=1, batch_size=0)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Take the step; the update weighs as many as there are examples."""
        return train_locally(task, memo, ctx, self.recipe)
