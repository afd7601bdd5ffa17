"""What gradient-based local algorithms share: one local training, from model to update."""

from fedsim import rng, training
from fedsim.clients.dp_sgd import train_clipped
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_change

__all__ = ["train_locally"]


def train_locally(
    task: Task, memo: Memo, ctx: ClientContext, recipe: Recipe
) -> tuple[Update, Memo]:
    """Train the task's module and return its change as an update weighted by the examples."""
    if recipe.clipping:
        return train_clipped(task, memo, ctx, recipe)
    state = task.optimizer.start(training.trainable(task.module))
    if recipe.keep_optimizer:
        training.restore_optimizer(state, memo)
    # What draws from torch's own generator (a user's functional dropout) draws from this stream.
    with rng.torch_stream(ctx.seed, "dropout", round=ctx.round, client=ctx.client):
        loss = training.fit(task, recipe, state, ctx)
    vector = get_change(task.module, task.model).cpu()
    metrics = {"loss": loss, "examples": float(len(task.y))}
    update = Update(vector, weight=float(len(task.y)), metrics=metrics)
    return update, training.save_optimizer(state) if recipe.keep_optimizer else {}
