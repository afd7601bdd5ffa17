"""What local algorithms share that take more than one gradient in a step: batch by batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsim import dropout, rng, training
from fedsim.core import ClientContext, Recipe, Task, Update
from fedsim.models import get_change

__all__ = ["Batch", "apart", "gradients", "take_steps", "update_of"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of a task; `index`: which examples they are. `keys`, `number`: for dropout."""

    task: Task
    index: Tensor
    keys: Tensor
    number: int

    @property
    def x(self) -> Tensor:
        """Return the inputs."""
        return self.task.x[self.index]

    @property
    def y(self) -> Tensor:
        """Return the targets."""
        return self.task.y[self.index]

    def output(self, module: nn.Module) -> Tensor:
        """Return what a module gives; its dropout is that of this client, round and step."""
        with dropout.keyed(self.keys, self.number):
            found: Tensor = module(self.x)
        return found

    def loss(self) -> Tensor:
        """Return the mean loss of the task's module."""
        return self.task.loss(self.output(self.task.module), self.y)


def take_steps(
    task: Task, recipe: Recipe, ctx: ClientContext, step: Callable[[Batch], Tensor]
) -> float:
    """Call `step` for the batches of a recipe; return the mean of the losses it returns.

    Each is that of the batch as it found it. Draws come from the client's own streams.
    """
    task.module.train()
    total, seen = torch.zeros((), dtype=torch.float64, device=task.x.device), 0
    order = training.batches(len(task.y), recipe, ctx, full_batch=task.optimizer.full_batch)
    (keys,) = torch.from_numpy(training.client_keys([ctx])).to(task.x.device)
    with rng.torch_stream(ctx.seed, "dropout", round=ctx.round, client=ctx.client):
        for number, index in enumerate(order):
            batch = Batch(task, index.to(task.x.device), keys, number)
            total += step(batch).detach().double() * len(index)
            seen += len(index)
    return float(total) / seen


def gradients(loss: Tensor, parameters: list[Tensor], *, is_kept: bool = False) -> list[Tensor]:
    """Return the gradients of a loss, zero for what has no part in it.

    `is_kept`: they can be differentiated again.
    """
    if not loss.requires_grad:  # of nothing that is trained
        return [torch.zeros_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(
        loss, parameters, create_graph=is_kept, allow_unused=True, materialize_grads=True
    )
    return list(found)


def apart(ctx: ClientContext, purpose: str, number: int = 0) -> ClientContext:
    """Return a context with streams of its own: other orders of examples, other masks."""
    return replace(ctx, seed=rng.derive(ctx.seed, purpose, round=number))


def update_of(task: Task, loss: float, *, weight: float | None = None) -> Update:
    """Return the change of the task's module as an update; `weight` unset: the examples."""
    count = float(len(task.y))
    vector = get_change(task.module, task.model).cpu()
    metrics = {"loss": loss, "examples": count}
    return Update(vector, count if weight is None else weight, metrics)
