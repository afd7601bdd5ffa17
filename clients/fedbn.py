"""FedBN: batch normalization stays on the client.

Li et al., "FedBN: federated learning on non-IID features via local batch normalization", ICLR 2021,
Algorithm 1: scale, shift and running statistics of batch-norm layers are not averaged.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.clients._kept import personal, places_of, steps_of, train_shared
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import layout

__all__ = ["FedBN"]


@dataclass(frozen=True, slots=True)
class FedBN:
    """Like `sgd`; each client has batch-norm layers of its own, which are never sent."""

    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None

    def refuses(self, module: nn.Module) -> str:
        """Say why a model has nothing to keep, or nothing."""
        return "" if _norms(module) else "it has no batch normalization that clients could keep"

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard with the client's own batch-norm layers in the model."""
        training = steps_of(Recipe(self.epochs, self.steps, self.batch_size))
        return train_shared(task, memo, ctx, training, places_of(task.module, _norms(task.module)))

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the global model with the client's own batch-norm layers."""
        return personal(memo, model)


def _norms(module: nn.Module) -> set[str]:
    parts = {n for n, part in module.named_modules() if isinstance(part, _BatchNorm)}
    return {name for name, _ in layout(module) if name.rpartition(".")[0] in parts}
