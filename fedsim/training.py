"""Local training: the loop that every gradient-based local algorithm shares."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core import Memo, Task

__all__ = ["batches", "fit", "restore_optimizer", "save_optimizer"]

_OPTIMIZER = "optimizer"


def batches(
    examples: int,
    *,
    batch_size: int,
    epochs: int,
    steps: int | None,
    stream: np.random.Generator,
) -> Iterator[Tensor]:
    """Yield index tensors: `epochs` shuffled passes, or exactly `steps` batches over such passes.

    The last batch of a pass may be smaller. `batch_size` 0 takes all examples at once.

    >>> stream = np.random.default_rng(0)
    >>> [len(b) for b in batches(5, batch_size=2, epochs=1, steps=None, stream=stream)]
    [2, 2, 1]
    """
    size = batch_size or examples

    def endless() -> Iterator[Tensor]:
        while True:
            order = torch.from_numpy(stream.permutation(examples))
            yield from torch.split(order, size)

    return islice(endless(), steps or epochs * -(-examples // size))


def fit(
    task: Task,
    order: Iterator[Tensor],
    optimizer: torch.optim.Optimizer,
    penalty: Callable[[list[nn.Parameter]], None] | None = None,
) -> float:
    """Train the task's module in place; return the mean loss per example that it saw.

    `penalty(parameters)` may add to the gradients after each backward pass. `task.l2` adds
    l2 x weight to the gradient (the gradient of l2/2 |w|^2). `task.l1` is the proximal step of
    l1 |w|_1 after each optimizer step, soft-thresholding by lr x l1: it makes exact zeros, where a
    subgradient only oscillates around them (Parikh and Boyd 2014, section 6.5.2). With adaptive
    optimizers the threshold uses the plain learning rate, not the per-coordinate step.
    """
    task.module.train()
    parameters = list(task.module.parameters())
    total, seen = torch.zeros((), dtype=torch.float64, device=task.x.device), 0
    for index in order:
        index = index.to(task.x.device)
        x, y = task.x[index], task.y[index]
        optimizer.zero_grad()
        loss = task.loss(task.module(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        if penalty:
            penalty(parameters)
        if task.l2:
            _add_l2(parameters, task.l2)
        optimizer.step()
        if task.l1:
            _shrink(optimizer, task.l1)
        total += loss.detach().double() * len(index)
        seen += len(index)
    return float(total) / seen


def save_optimizer(optimizer: torch.optim.Optimizer) -> Memo:
    """Return an optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{_OPTIMIZER}/{index}/{name}": torch.as_tensor(value).clone()
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, memo: Memo) -> None:
    """Give an optimizer the state that `save_optimizer` returned, if it is in the memo."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in memo.items():
        kind, *rest = key.split("/")
        if kind == _OPTIMIZER:
            index, name = rest
            parameter = parameters[int(index)]
            # Step counters stay on the CPU, as torch keeps them; the rest goes with its parameter.
            device = tensor.device if name == "step" else parameter.device
            own = tensor.to(device, copy=True)
            optimizer.state[parameter][name] = own


@torch.no_grad()
def _add_l2(parameters: list[nn.Parameter], l2: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.add_(parameter, alpha=l2)


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, l1: float) -> None:
    for group in optimizer.param_groups:
        threshold = group["lr"] * l1
        for parameter in group["params"]:
            if parameter.grad is not None:  # what is frozen is not shrunk either
                parameter.copy_(parameter.sign() * (parameter.abs() - threshold).clamp(min=0))
