"""pFedMe: each client's model is the proximal point of its loss around the shared one.

Dinh, Tran and Nguyen, "Personalized federated learning with Moreau envelopes", NeurIPS 2020. A
client's own model is theta(w) = argmin f(theta) + lambda/2 |theta - w|^2 (equation 3); the gradient
of that minimum is lambda (w - theta(w)) (equation 4), and Algorithm 1 takes steps of it: line 8, w
<- w - eta lambda (w - theta). theta is found by `inner_steps` (K) steps of the client optimizer on
the same batch (equation 7), each round from the model it was sent. The strategy is `fedavg` with
`lr` = beta; clients count alike, as in line 10.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim import training
from fedsim.clients._control import pulled
from fedsim.clients._steps import Batch, gradients, take_steps, update_of
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_vector

__all__ = ["PFedMe"]

_MODEL = "model"


@dataclass(frozen=True, slots=True)
class PFedMe:
    """`pull`: lambda; `lr`: eta, of the shared model; the client optimizer finds the own one.

    One batch is one local round of the paper's (R in all). `lr` x `pull` should be below 1.
    """

    pull: Annotated[float, Gt(0)] = 15.0
    lr: Annotated[float, Gt(0)] = 0.005
    inner_steps: Annotated[int, Ge(1)] = 5
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    contract: ClassVar = {"pull": 1.0, "lr": 0.5, "inner_steps": 1}

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Move the shared model towards the own one, and send that; keep the own one."""
        parameters = training.trainable(task.module)
        shared = [parameter.detach().clone() for parameter in parameters]
        state = task.optimizer.start(parameters)
        inner, rate = Recipe(adjust=self._pull), self.lr * ctx.lr_factor * self.pull

        def step(batch: Batch) -> Tensor:
            first: Tensor | None = None
            for _ in range(self.inner_steps):
                loss = batch.loss()
                first = loss if first is None else first
                moves = gradients(loss, parameters)
                training.take_step(task, inner, parameters, moves, shared, state, ctx.lr_factor)
            with torch.no_grad():
                for w, theta in zip(shared, parameters, strict=True):
                    w.sub_(w - theta, alpha=rate)
            assert first is not None
            return first

        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        loss = take_steps(task, recipe, ctx, step)
        own = get_vector(task.module).cpu()
        with torch.no_grad():
            for parameter, w in zip(parameters, shared, strict=True):
                parameter.copy_(w)
        return update_of(task, loss, weight=1.0), {_MODEL: own}

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the client's own model; the global one where it has not trained yet."""
        return memo.get(_MODEL, model)

    def _pull(
        self, gradients: list[Tensor], parameters: list[Tensor], anchors: list[Tensor]
    ) -> list[Tensor]:
        return pulled(gradients, parameters, anchors, self.pull)
