"""Per-FedAvg: a shared model from which one step of a client's own leads far.

Fallah, Mokhtari and Ozdaglar, "Personalized federated learning with theoretical guarantees: a
model-agnostic meta-learning approach", NeurIPS 2020. Clients minimize F(w) = f(w - alpha grad f(w))
(equation 3). Its gradient (equation 4), on three independent batches D, D', D'' (Algorithm 1, lines
6 to 8), is (I - alpha H(w; D'')) g with g = grad f(w - alpha grad f(w; D); D').
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedsim import training
from fedsim.clients._local import train_locally
from fedsim.clients._steps import Batch, apart, gradients, take_steps, update_of
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.optimizers.sgd import Sgd

__all__ = ["PerFedAvg"]


@dataclass(frozen=True, slots=True)
class PerFedAvg:
    """`alpha`: the rate of a client's own step; the client optimizer takes the meta-gradient's.

    `variant`: "fo" leaves the Hessian out (first order), "hf" takes the difference of two gradients
    `hf_delta` g to each side in its place (section 5), "exact" differentiates twice. A client uses
    the model after `own_steps` steps of rate `alpha`, on batches of its examples.
    """

    alpha: Annotated[float, Ge(0)] = 0.01
    variant: Literal["fo", "hf", "exact"] = "hf"
    hf_delta: Annotated[float, Gt(0)] = 1e-3
    own_steps: Annotated[int, Ge(1)] = 1
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    contract: ClassVar = {"alpha": 0.0}

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Take steps of the meta-gradient; keep nothing."""
        parameters = training.trainable(task.module)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        others = [
            training.batches(
                len(task.y), recipe, apart(ctx, name), full_batch=task.optimizer.full_batch
            )
            for name in ("outer", "curvature")
        ]
        state = task.optimizer.start(parameters)

        def step(first: Batch) -> Tensor:
            second, third = (
                replace(first, index=next(other).to(task.x.device)) for other in others
            )
            loss, moves = self._meta(first, second, third, parameters)
            training.take_step(task, recipe, parameters, moves, [], state, ctx.lr_factor)
            return loss

        return update_of(task, take_steps(task, recipe, ctx, step)), {}

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the model after the client's own steps."""
        if self.alpha:
            optimizer: Any = Sgd(lr=self.alpha)
            own = replace(task, optimizer=optimizer)
            recipe = Recipe(steps=self.own_steps, batch_size=self.batch_size)
            train_locally(own, {}, replace(ctx, lr_factor=1.0), recipe)
        return task.module

    def _meta(
        self, first: Batch, second: Batch, third: Batch, parameters: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss before the client's own step, and the gradient of that after it."""
        before = first.loss()
        inner = gradients(before, parameters)
        with _moved(parameters, inner, -self.alpha):
            outer = gradients(second.loss(), parameters)
        if self.variant == "fo" or not self.alpha:
            return before, outer
        curved = self._exact if self.variant == "exact" else self._difference
        bent = curved(third, parameters, outer)
        return before, [g - self.alpha * h for g, h in zip(outer, bent, strict=True)]

    def _exact(self, batch: Batch, parameters: list[Tensor], along: list[Tensor]) -> list[Tensor]:
        own = gradients(batch.loss(), parameters, is_kept=True)
        slope = torch.stack([(g * v).sum() for g, v in zip(own, along, strict=True)]).sum()
        return gradients(slope, parameters)

    def _difference(
        self, batch: Batch, parameters: list[Tensor], along: list[Tensor]
    ) -> list[Tensor]:
        sides = []
        for sign in (1.0, -1.0):
            with _moved(parameters, along, sign * self.hf_delta):
                sides.append(gradients(batch.loss(), parameters))
        return [(a - b) / (2 * self.hf_delta) for a, b in zip(*sides, strict=True)]


class _moved:  # noqa: N801 - read as a phrase: with _moved(parameters, ...)
    """Have parameters elsewhere for a while: by a multiple of a direction."""

    def __init__(self, parameters: list[Tensor], along: list[Tensor], by: float) -> None:
        self.parameters, self.along, self.by = parameters, along, by
        self.before = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def __enter__(self) -> None:
        torch._foreach_add_(self.parameters, self.along, alpha=self.by)

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for parameter, before in zip(self.parameters, self.before, strict=True):
            parameter.copy_(before)
