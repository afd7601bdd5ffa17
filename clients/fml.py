"""Federated mutual learning: a client's own model and the shared one teach each other.

Shen et al., "Federated mutual learning", 2020, equations 5 and 6, with deep mutual learning (Zhang
et al., CVPR 2018): on every batch the own model takes a step of alpha CE + (1 - alpha) KL(shared ||
own), the shared one (the paper's meme) of beta CE + (1 - beta) KL(own || shared), each with the
other's outputs as they are. Only the shared model is sent and averaged; the own one stays, and may
be of another kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from fedsim import training
from fedsim.clients._own_module import check_models, own_module
from fedsim.clients._steps import Batch, gradients, take_steps, update_of
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_vector

__all__ = ["Fml"]

_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Fml:
    """`alpha`, `beta`: the part of the own loss in what the own and the shared model learn from.

    `models`: client i has the i-th of them, in turn, with its settings in `args`; empty: `model`.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    beta: Annotated[float, Ge(0), Le(1)] = 0.5
    models: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    kinds: ClassVar = ("classification",)
    contract: ClassVar = {"alpha": 1.0, "beta": 1.0}

    def __post_init__(self) -> None:
        """Refuse models that do not exist, or settings that they do not have."""
        check_models(self.models, self.args)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train both models side by side; send the change of the shared one, keep the own one."""
        module = own_module(task, memo.get(_MODEL), self.models, self.args, ctx).train()
        shared, own = training.trainable(task.module), training.trainable(module)
        of_shared, of_own = task.optimizer.start(shared), task.optimizer.start(own)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        beside = replace(task, module=module)

        def step(batch: Batch) -> Tensor:
            said, own_said = batch.output(task.module), batch.output(module)
            loss = task.loss(said, batch.y)
            taught = self.beta * loss + (1 - self.beta) * divergence(own_said, said)
            own_loss = task.loss(own_said, batch.y)
            own_taught = self.alpha * own_loss + (1 - self.alpha) * divergence(said, own_said)
            moves, own_moves = gradients(taught, shared), gradients(own_taught, own)
            training.take_step(task, recipe, shared, moves, [], of_shared, ctx.lr_factor)
            training.take_step(beside, recipe, own, own_moves, [], of_own, ctx.lr_factor)
            return loss

        loss = take_steps(task, recipe, ctx, step)
        return update_of(task, loss), {_MODEL: get_vector(module).cpu()}

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the client's own model; the shared one where it has not trained yet."""
        if _MODEL not in memo:
            return task.module
        return own_module(task, memo[_MODEL], self.models, self.args, ctx)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the mean KL(teacher || student) of outputs [..., classes]; the teacher is fixed."""
    log_p = functional.log_softmax(teacher.detach().flatten(0, -2), dim=-1)
    log_q = functional.log_softmax(student.flatten(0, -2), dim=-1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
