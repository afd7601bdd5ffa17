"""Ditto: beside its part of the global model, each client trains a model of its own.

Li et al., "Ditto: fair and robust federated learning through personalization", ICML 2021, Algorithm
1: v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w)), w being the global model that the client was
sent; what it sends is local training of that, untouched by v_k.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from fedsim.clients._control import added, pulled
from fedsim.clients._local import train_locally
from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import set_vector

__all__ = ["Ditto"]

_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Ditto:
    """Like `sgd` for what is sent; `pull` (lambda) draws the client's own model to the global one.

    The own model is trained for as many epochs, or steps, on the same batches.
    """

    pull: Annotated[float, Ge(0)] = 1.0
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train the global model and send its change; train the own model and keep it."""
        inner = Sgd(self.epochs, self.steps, self.batch_size)
        update, _ = inner.train(task, {}, ctx)
        own = self.personal(memo, task.model).to(task.model.device)
        set_vector(task.module, own)
        # lambda (v - w) = lambda (v - v_0) + lambda (v_0 - w): a pull to the start, and a constant.
        constant = added(task.module, self.pull * (own - task.model))

        def adjust(
            gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor]
        ) -> list[Tensor]:
            moves = constant(gradients, parameters, anchors)
            return pulled(moves, parameters, anchors, self.pull)

        recipe = Recipe(self.epochs, self.steps, self.batch_size, adjust=adjust)
        personal, _ = train_locally(replace(task, model=own), {}, ctx, recipe)
        set_vector(task.module, task.model)
        return update, {_MODEL: own.cpu() + personal.vector}

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the client's own model; the global one where it has not trained yet."""
        return memo.get(_MODEL, model)
