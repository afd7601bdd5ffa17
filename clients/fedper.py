"""FedPer: the last layers stay on the client, those before them are shared.

Arivazhagan et al., "Federated learning with personalization layers", 2019, Algorithm 1: base layers
are averaged, personalization layers are trained along with them and kept.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from fedsim.clients._kept import head_places, personal, steps_of, train_shared
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["FedPer"]


@dataclass(frozen=True, slots=True)
class FedPer:
    """Like `sgd`; each client has the last `layers` layers for itself, and never sends them."""

    layers: Annotated[int, Ge(1)] = 1
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard with the client's own last layers in the model."""
        training = steps_of(Recipe(self.epochs, self.steps, self.batch_size))
        return train_shared(task, memo, ctx, training, head_places(task.module, self.layers))

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the global model with the client's own last layers."""
        return personal(memo, model)
