"""Local training of many clients at once, parameters stacked on a leading client axis.

The forward pass is `torch.func.vmap` over a functional call of the module; the backward pass is
plain autograd on the sum of the clients' losses: as no client's loss depends on another's
parameters, its gradient is every client's own. Optimizers act element by element, stacked or not.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsim import dropout, losses
from fedsim.core import ClientContext, Memo, OptimizerState, Recipe, Task
from fedsim.training import client_keys, restore_optimizer, save_optimizer, take_step
from fedsim.vectorized.change import Change
from fedsim.vectorized.linear import StackedProducts
from fedsim.vectorized.schedule import Schedule, Step

__all__ = ["client_losses", "fit_stacked", "memos_of", "start_state", "unsuitable"]

#: (stacked parameters, inputs [clients, width, ...], keys, step number) -> outputs
Forward = Callable[[list[Tensor], Tensor, Tensor, int], Tensor]


def unsuitable(module: nn.Module) -> str:
    """Say in a line why clients' copies of a module cannot be trained at once; "" if they can."""
    if any(buffer.is_floating_point() for buffer in module.buffers()):
        return "it has buffers that training may change (batch norm's statistics)"
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            return "batch norm mixes the examples of a batch"
        if isinstance(child, nn.RNNBase):
            return f"torch has no stacked {type(child).__name__}"
    return ""


def fit_stacked(
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    places: Tensor,
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
) -> tuple[Change, Tensor, list[Memo]]:
    """Train clients from the task's model; return their changes, mean losses and memos.

    `task.x`, `task.y` hold the examples of all, `places[i]` where those of client i are. The
    clients are in the order of the schedule.
    """
    module = task.module.train()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    anchors = [p.detach().contiguous() for p in module.parameters() if p.requires_grad]
    stacked = [p.expand(len(places), *p.shape).clone() for p in anchors]
    state = start_state(task, recipe, stacked, memos)
    forward = _forward(module, names, len(places))
    keys = torch.from_numpy(client_keys(contexts)).to(task.x.device)
    totals = torch.zeros(len(places), dtype=torch.float64, device=task.x.device)
    for number, step in enumerate(schedule.steps):
        active = slice(step.clients)
        leaves = [p[active].detach().requires_grad_() for p in stacked]
        output = forward(leaves, step.of(task.x, places), keys[active], number)
        each = client_losses(task, output, step.of(task.y, places), step)
        gradients = torch.autograd.grad(each.sum(), leaves, allow_unused=True)
        own = {name: [t[active] for t in tensors] for name, tensors in state.items()}
        parameters = [leaf.detach() for leaf in leaves]
        take_step(task, recipe, parameters, gradients, anchors, own, contexts[0].lr_factor)
        totals[active] += each.detach().double() * step.counts
    torch._foreach_sub_(stacked, anchors)
    kept = memos_of(state, recipe, len(places))
    return Change(module, stacked), totals / schedule.seen, kept


def client_losses(task: Task, output: Tensor, target: Tensor, step: Step) -> Tensor:
    """Return every client's mean loss over its batch: [clients]."""
    per_example = losses.each(task.loss, output, target)
    if per_example.dim() > 2:  # one loss per position
        per_example = per_example.flatten(2).mean(dim=2)
    if step.mask is None:
        return per_example.mean(dim=1)
    return (per_example * step.mask).sum(dim=1) / step.counts


def _forward(module: nn.Module, names: list[str], clients: int) -> Forward:
    def one(parameters: list[Tensor], x: Tensor, key: Tensor, number: int) -> Tensor:
        with dropout.keyed(key, number), StackedProducts(clients):
            own = dict(zip(names, parameters, strict=True))
            return cast(Tensor, functional_call(module, own, (x,)))

    return cast(Forward, vmap(one, in_dims=(0, 0, 0, None)))


def start_state(
    task: Task, recipe: Recipe, stacked: list[Tensor], memos: Sequence[Memo]
) -> OptimizerState:
    """Return the optimizer's stacked state: fresh, or what the clients kept."""
    state = task.optimizer.start(stacked, lead=1)
    if recipe.keep_optimizer:
        for row, memo in enumerate(memos):
            restore_optimizer({n: [t[row] for t in tensors] for n, tensors in state.items()}, memo)
    return state


def memos_of(state: OptimizerState, recipe: Recipe, clients: int) -> list[Memo]:
    """Return what each client keeps of a stacked state."""
    if not recipe.keep_optimizer:
        return [{} for _ in range(clients)]
    return [
        save_optimizer({name: [t[row] for t in tensors] for name, tensors in state.items()})
        for row in range(clients)
    ]
