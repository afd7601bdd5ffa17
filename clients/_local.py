"""What gradient-based local algorithms share: one local training, from model to update."""

from collections.abc import Callable

from torch import nn

from fedsim import rng, training
from fedsim.core import ClientContext, Memo, Task, Update
from fedsim.models import get_vector

__all__ = ["train_locally"]


def train_locally(
    task: Task,
    memo: Memo,
    ctx: ClientContext,
    *,
    batch_size: int,
    epochs: int,
    steps: int | None,
    keep_optimizer: bool,
    penalty: Callable[[list[nn.Parameter]], None] | None = None,
) -> tuple[Update, Memo]:
    """Train the task's module and return its change as an update weighted by the examples."""
    optimizer = task.optimizer(list(task.module.parameters()), ctx.lr_factor)
    if keep_optimizer:
        training.restore_optimizer(optimizer, memo)
    order = training.batches(
        len(task.y),
        batch_size=0 if task.full_batch else batch_size,
        epochs=epochs,
        steps=steps,
        stream=ctx.rng("batches"),
    )
    with rng.torch_stream(ctx.seed, "dropout", round=ctx.round, client=ctx.client):
        loss = training.fit(task, order, optimizer, penalty)
    vector = (get_vector(task.module) - task.model).cpu()
    metrics = {"loss": loss, "examples": float(len(task.y))}
    update = Update(vector, weight=float(len(task.y)), metrics=metrics)
    return update, training.save_optimizer(optimizer) if keep_optimizer else {}
