"""APFL: each client mixes the shared model with one of its own, in a part that it may learn.

Deng, Kamani and Mahdavi, "Adaptive personalized federated learning", 2020, Algorithm 1: the shared
model takes w <- w - eta grad f(w), the own one v <- v - eta grad_v f(u) with u = alpha v + (1 -
alpha) w, so that its gradient is alpha times that at u; both on the same batch. With `alpha_lr`
(equation 10) alpha <- alpha - eta <v - w, grad f(u)>, kept within [0, 1]. Clients count alike.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedsim import training
from fedsim.clients._steps import Batch, gradients, take_steps, update_of
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_vector, set_vector

__all__ = ["Apfl"]

_MODEL, _ALPHA = "model", "alpha"


@dataclass(frozen=True, slots=True)
class Apfl:
    """`alpha`: the part of the own model in the mixture, at first; `alpha_lr` 0: always."""

    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    alpha_lr: Annotated[float, Ge(0)] = 0.0
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    contract: ClassVar = {"alpha": 1.0}

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train both models; send the change of the shared one, keep the own one and alpha."""
        parameters = training.trainable(task.module)
        own = self._own(task, memo, parameters)
        part = float(memo[_ALPHA]) if _ALPHA in memo else self.alpha
        states = [task.optimizer.start(each) for each in (parameters, own)]
        recipe = Recipe(self.epochs, self.steps, self.batch_size)

        def step(batch: Batch) -> Tensor:
            nonlocal part
            loss = batch.loss()
            moves = gradients(loss, parameters)
            shared = [parameter.detach().clone() for parameter in parameters]
            _set(parameters, _mixed(own, shared, part))
            at_mixture = gradients(batch.loss(), parameters)
            _set(parameters, shared)
            training.take_step(task, recipe, parameters, moves, [], states[0], ctx.lr_factor)
            if self.alpha_lr:
                slope = sum(
                    float(((v - w) * g).sum())
                    for v, w, g in zip(own, shared, at_mixture, strict=True)
                )
            of_own = [part * g for g in at_mixture]
            training.take_step(task, recipe, own, of_own, [], states[1], ctx.lr_factor)
            if self.alpha_lr:
                part = min(1.0, max(0.0, part - self.alpha_lr * ctx.lr_factor * slope))
            return loss

        loss = take_steps(task, recipe, ctx, step)
        update = update_of(task, loss, weight=1.0)
        _set(parameters, own)
        kept = {_MODEL: get_vector(task.module).cpu(), _ALPHA: torch.tensor([part]).double()}
        return update, kept

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the mixture of the client's own model with the global one."""
        if _MODEL not in memo:
            return model
        part = float(memo[_ALPHA])
        return part * memo[_MODEL].to(model.device) + (1 - part) * model

    def _own(self, task: Task, memo: Memo, parameters: list[Tensor]) -> list[Tensor]:
        """Return the parameters of the client's own model: at first those of the shared one."""
        if _MODEL in memo:
            set_vector(task.module, memo[_MODEL])
        own = [parameter.detach().clone() for parameter in parameters]
        set_vector(task.module, task.model)
        return own


def _mixed(own: list[Tensor], shared: list[Tensor], part: float) -> list[Tensor]:
    return [part * v + (1 - part) * w for v, w in zip(own, shared, strict=True)]


@torch.no_grad()
def _set(parameters: list[Tensor], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
