"""Who trains on what in which step, for clients of unequal size that are trained at once.

Clients are ordered by their number of steps, most first: the active ones are then always the first
rows of every stacked tensor, and nothing is computed for those that have finished. Only where two
clients' batches differ in size is a batch padded, and `groups` bounds what that may cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.core import ClientContext, Recipe
from fedsim.counter import client_keys, permutations
from fedsim.training import BATCHES

__all__ = ["MOST_PADDING", "Schedule", "Step", "batch_sizes", "groups", "plan_steps"]

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


def batch_sizes(size: int, recipe: Recipe, *, full_batch: bool) -> list[int]:
    """Return how many examples each of a client's batches has.

    >>> batch_sizes(5, Recipe(batch_size=2, epochs=2), full_batch=False)
    [2, 2, 1, 2, 2, 1]
    """
    width = size if full_batch else recipe.batch_size or size
    one_pass = [min(width, size - start) for start in range(0, size, width)]
    passes = recipe.epochs if recipe.steps is None else -(-recipe.steps // len(one_pass))
    return (one_pass * passes)[: recipe.steps]


def groups(sizes: Sequence[int], recipe: Recipe, *, full_batch: bool) -> list[list[int]]:
    """Split clients of such sizes so that padding stays below `MOST_PADDING`.

    Returns lists of places in `sizes`; in each the clients with the most steps come first.

    >>> groups([20, 19, 2], Recipe(batch_size=10), full_batch=False)
    [[0, 1], [2]]
    """
    if len(set(sizes)) == 1:
        return [list(range(len(sizes)))]
    counts = [batch_sizes(size, recipe, full_batch=full_batch) for size in sizes]
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


def plan_steps(
    sizes: Sequence[int],
    recipe: Recipe,
    contexts: Sequence[ClientContext],
    device: torch.device,
    *,
    full_batch: bool,
) -> Schedule:
    """Stack the batches that clients would train on alone; those with the most steps come first."""
    first = contexts[0]
    ids = [ctx.client for ctx in contexts]
    keys = client_keys(first.seed, BATCHES, first.round, ids)
    size = torch.tensor(sizes)
    width = (
        size if full_batch or not recipe.batch_size else torch.full_like(size, recipe.batch_size)
    )
    per_pass = -(-size // width)
    steps = (
        per_pass * recipe.epochs if recipe.steps is None else torch.full_like(size, recipe.steps)
    )
    passes: dict[int, Tensor] = {}
    planned, computed, real = [], 0, 0
    for number in range(int(steps.max())):
        active = int((steps > number).sum())
        epoch, batch = number // per_pass[:active], number % per_pass[:active]
        start = batch * width[:active]
        counts = torch.minimum(width[:active], size[:active] - start)
        widest = int(counts.max())
        place = torch.arange(widest)
        is_real = place < counts.unsqueeze(1)
        # Padding repeats the client's first example, which masks then hide.
        at = torch.where(is_real, start.unsqueeze(1) + place, 0)
        index = _orders(keys, size, epoch, passes).gather(1, at)
        mask = None if bool(is_real.all()) else is_real.float().to(device)
        planned.append(Step(active, index.to(device), counts.to(device), mask))
        computed, real = computed + active * widest, real + int(counts.sum())
    whole, rest = steps // per_pass, steps % per_pass
    seen = whole * size + torch.minimum(rest * width, size)
    return Schedule(planned, seen.to(device), computed / real)


def _orders(keys: Tensor, size: Tensor, epoch: Tensor, passes: dict[int, Tensor]) -> Tensor:
    """Return the order of each client's current pass; `passes` remembers those already drawn."""
    current = sorted(set(epoch.tolist()))
    for number in current:
        if number not in passes:
            passes[number] = permutations(keys, size, number)
    for number in [number for number in passes if number < current[0]]:
        del passes[number]
    order = passes[current[0]][: len(epoch)]
    for number in current[1:]:
        order = torch.where((epoch == number).unsqueeze(1), passes[number][: len(epoch)], order)
    return order
