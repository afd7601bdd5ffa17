"""Local training: the loop that every gradient-based local algorithm shares.

A `Recipe` says what is done; `fit` does it for one client on the resident module, and is what
`fedsim.vectorized` is held to, which does it for many clients at once.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn

from fedsim import counter, dropout, outer
from fedsim.core import ClientContext, Memo, OptimizerState, Recipe, Task

__all__ = [
    "batches",
    "client_keys",
    "epoch_orders",
    "fit",
    "restore_optimizer",
    "save_optimizer",
    "step_count",
    "take_step",
    "trainable",
]

#: The purpose of a client's counter-based stream. Salts from 0 on are dropout's (step and call),
#: negative ones are those of the epochs' orders.
_PURPOSE = "training"

_OPTIMIZER = "optimizer"


def batches(
    size: int, recipe: Recipe, ctx: ClientContext, *, full_batch: bool = False
) -> Iterator[Tensor]:
    """Yield a client's batches as index tensors: shuffled passes over its `size` examples.

    `recipe.epochs` passes, or exactly `recipe.steps` batches over such passes. The last batch of a
    pass may be smaller. Batch size 0, or `full_batch`, takes all examples at once.

    >>> ctx = ClientContext(seed=0, round=1, client=0)
    >>> [len(b) for b in batches(5, Recipe(batch_size=2), ctx)]
    [2, 2, 1]
    """
    width = _width(size, recipe, full_batch=full_batch)
    keys, sizes = client_keys([ctx]), np.array([size])

    def endless() -> Iterator[Tensor]:
        for epoch in count():
            order = torch.from_numpy(epoch_orders(keys, sizes, epoch)[0])
            yield from torch.split(order, width)

    return islice(endless(), step_count(size, recipe, full_batch=full_batch))


def step_count(size: int, recipe: Recipe, *, full_batch: bool = False) -> int:
    """Return how many batches `batches` yields.

    >>> step_count(5, Recipe(epochs=2, batch_size=2))
    6
    """
    return recipe.steps or recipe.epochs * -(-size // _width(size, recipe, full_batch=full_batch))


def _width(size: int, recipe: Recipe, *, full_batch: bool) -> int:
    return size if full_batch else recipe.batch_size or size


def trainable(module: nn.Module) -> list[Tensor]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def fit(task: Task, recipe: Recipe, state: OptimizerState, ctx: ClientContext) -> float:
    """Train the task's module in place; return the mean loss per example that it saw."""
    if not task.module.training:
        task.module.train()
    parameters, layers = trainable(task.module), outer.layers_of(task, recipe, state)
    anchors = [p.detach().clone() for p in parameters] if recipe.adjust else []
    total, seen = torch.zeros((), dtype=torch.float64, device=task.x.device), 0
    order = batches(len(task.y), recipe, ctx, full_batch=task.optimizer.full_batch)
    (key,) = torch.from_numpy(client_keys([ctx])).to(task.x.device)
    with outer.taped(layers) as tape:
        for number, index in enumerate(order):
            index = index.to(task.x.device)
            with dropout.keyed(key, number):
                loss = task.loss(task.module(task.x[index]), task.y[index])
            *gradients, _ = torch.autograd.grad(
                loss, [*parameters, tape.token], allow_unused=True, materialize_grads=not layers
            )
            take_step(task, recipe, parameters, gradients, anchors, state, ctx.lr_factor)
            tape.apply(task.optimizer, ctx.lr_factor)
            total += loss.detach().double() * len(index)
            seen += len(index)
    return float(total) / seen


def client_keys(contexts: Sequence[ClientContext]) -> np.ndarray:
    """Return the keys of clients' streams in their round: int32 [clients, 2]."""
    first, ids = contexts[0], [ctx.client for ctx in contexts]
    return counter.client_keys(first.seed, _PURPOSE, first.round, ids)


def epoch_orders(keys: np.ndarray, sizes: np.ndarray, epoch: int) -> np.ndarray:
    """Return the order in which clients go through their examples: int64 [clients, largest]."""
    return counter.permutations(keys, sizes, -1 - epoch)


@torch.no_grad()
def take_step(
    task: Task,
    recipe: Recipe,
    parameters: list[Tensor],
    gradients: Sequence[Tensor | None],
    anchors: list[Tensor],
    state: OptimizerState,
    lr_factor: float,
) -> None:
    """Step in place, from gradients to parameters; for one client or for many at once.

    A parameter without a gradient had no part in the loss and stays as it is.

    `task.l2` adds l2 x weight to the gradient (the gradient of l2/2 |w|^2). `task.l1` is the
    proximal step of l1 |w|_1 after each optimizer step, soft-thresholding by lr x l1: it makes
    exact zeros, where a subgradient only oscillates around them (Parikh and Boyd 2014, section
    6.5.2). With adaptive optimizers the threshold uses the plain learning rate, not the
    per-coordinate step.
    """
    moves = [gradient for gradient in gradients if gradient is not None]
    if len(moves) < len(gradients):
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        parameters, anchors = [parameters[i] for i in used], [anchors[i] for i in used if anchors]
        state = {name: [tensors[i] for i in used] for name, tensors in state.items()}
    if recipe.adjust:
        moves = recipe.adjust(moves, parameters, anchors)
    if task.l2:
        moves = list(torch._foreach_add(moves, parameters, alpha=task.l2))
    task.optimizer.step(parameters, moves, state, lr_factor)
    if task.l1:
        threshold = task.optimizer.lr * lr_factor * task.l1
        for parameter in parameters:
            parameter.copy_(parameter.sign() * (parameter.abs() - threshold).clamp(min=0))


def save_optimizer(state: OptimizerState) -> Memo:
    """Return an optimizer's state as named tensors."""
    return {
        f"{_OPTIMIZER}/{name}/{index}": tensor.clone()
        for name, tensors in state.items()
        for index, tensor in enumerate(tensors)
    }


def restore_optimizer(state: OptimizerState, memo: Memo) -> None:
    """Give a fresh state the numbers that `save_optimizer` returned, if they are in the memo."""
    for name, tensors in state.items():
        for index, tensor in enumerate(tensors):
            kept = memo.get(f"{_OPTIMIZER}/{name}/{index}")
            if kept is not None:
                tensor.copy_(kept)
