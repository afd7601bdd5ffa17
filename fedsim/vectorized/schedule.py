"""Who trains on what in which step, for clients of unequal size that are trained at once.

Clients are ordered by their number of steps, most first: the active ones are then always the first
rows of every stacked tensor, and nothing is computed for those that have finished. Only where two
clients' batches differ in size is a batch padded, and `groups` bounds what that may cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core import ClientContext, Recipe
from fedsim.training import recipe_batches

__all__ = ["MOST_PADDING", "Schedule", "Step", "client_batches", "groups", "plan_steps"]

#: Examples computed, padding included, may be this many times the real ones.
MOST_PADDING = 1.25


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the first `clients` clients.

    `index` [clients, width] are places in each client's own shard, padding repeats its first one;
    `counts` [clients] are the real examples of each batch; `mask` [clients, width] is 1 for them,
    None where nothing is padded.
    """

    clients: int
    index: Tensor
    counts: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of some clients, in the order in which they are stacked.

    `seen` [clients] is how many examples each trains on, epochs counted; `padding` is computed over
    real examples, at least 1.
    """

    steps: list[Step]
    seen: Tensor
    padding: float


def groups(counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Split clients, given each one's batch sizes, so that padding stays below `MOST_PADDING`.

    Returns lists of places in `counts`; in each the clients with the most steps come first.

    >>> groups([[10, 10], [10, 9], [2]])
    [[0, 1], [2]]
    """
    order = sorted(range(len(counts)), key=lambda i: (-len(counts[i]), -sum(counts[i]), i))
    found: list[list[int]] = []
    widest: list[int] = []
    members: list[int] = []  # how many of the group take part in each step
    real = 0
    for i in order:
        own = counts[i]
        merged = [max(pair) for pair in zip(widest, own, strict=False)] + widest[len(own) :]
        joined = [m + (s < len(own)) for s, m in enumerate(members)]
        cost = sum(w * m for w, m in zip(merged, joined, strict=True))
        if found and cost <= MOST_PADDING * (real + sum(own)):
            found[-1].append(i)
            widest, members, real = merged, joined, real + sum(own)
        else:
            found.append([i])
            widest, members, real = list(own), [1] * len(own), sum(own)
    return found


def plan_steps(orders: Sequence[Sequence[Tensor]], device: torch.device) -> Schedule:
    """Stack the batches of clients, those with the most steps first."""
    sizes = [[len(batch) for batch in order] for order in orders]
    steps, computed = [], 0
    for number in range(len(sizes[0])):
        active = sum(1 for own in sizes if number < len(own))
        counts = [own[number] for own in sizes[:active]]
        width = max(counts)
        index = np.empty((active, width), dtype=np.int64)
        for row, order in enumerate(orders[:active]):
            index[row, : counts[row]] = order[number].numpy()
            index[row, counts[row] :] = order[0][0]
        computed += active * width
        real = torch.tensor(counts, device=device)
        mask = None
        if min(counts) < width:
            mask = (torch.arange(width, device=device) < real[:, None]).float()
        steps.append(Step(active, torch.from_numpy(index).to(device), real, mask))
    seen = [sum(own) for own in sizes]
    return Schedule(steps, torch.tensor(seen, device=device), computed / sum(seen))


def client_batches(
    sizes: Sequence[int], recipe: Recipe, contexts: Sequence[ClientContext], *, full_batch: bool
) -> list[list[Tensor]]:
    """Draw every client's batches from its own stream: those it would train on alone."""
    return [
        list(recipe_batches(size, recipe, ctx, full_batch=full_batch))
        for size, ctx in zip(sizes, contexts, strict=True)
    ]
