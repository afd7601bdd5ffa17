"""FedProx: local training with a pull towards the global model.

Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, equation 2: a client
minimizes its loss plus mu/2 |w - w_global|^2. The paper's inexactness (clients doing different
amounts of work) is `epochs` and `steps`, and `rounds.deadline_s` where a virtual clock runs: who
would be late does fewer epochs (Algorithm 2 with gamma_k). mu = 0 is FedAvg's local training, bit
for bit.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from fedsim.clients._control import pulled
from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Memo, Recipe, Task, Update

__all__ = ["FedProx"]


@dataclass(frozen=True, slots=True)
class FedProx:
    """Like `sgd`, plus the gradient mu (w - w_global) in every step."""

    mu: Annotated[float, Ge(0)] = 0.01
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32
    keep_optimizer: bool = False

    late: ClassVar = "partial"

    @property
    def recipe(self) -> Recipe:
        """Return the steps of local training, each with the pull."""
        pull = self._pull if self.mu else None
        return Recipe(self.epochs, self.steps, self.batch_size, self.keep_optimizer, pull)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update weighs as many as there are examples."""
        return train_locally(task, memo, ctx, self.recipe)

    def _pull(
        self, gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor]
    ) -> list[Tensor]:
        return pulled(gradients, parameters, anchors, self.mu)
