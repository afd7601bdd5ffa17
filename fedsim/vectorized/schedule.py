"""Who trains on what in which step, for clients of unequal size that are trained at once.

Clients are ordered by their number of steps, most first: the active ones are then always the first
rows of every stacked tensor, and nothing is computed for those that have finished. Only where two
clients' batches differ in size is a batch padded, and `groups` bounds what that may cost. The
Poisson batches of DP-SGD differ by chance: the clients of a step are put into `buckets`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core import ClientContext, Recipe
from fedsim.privacy.example import batch, steps_of, stream_of
from fedsim.privacy.sampling import poisson_members
from fedsim.training import client_keys, epoch_orders

__all__ = [
    "MOST_PADDING",
    "MOST_POISSON_PADDING",
    "Schedule",
    "Step",
    "batch_sizes",
    "buckets",
    "first_pass",
    "groups",
    "plan_poisson",
    "plan_steps",
]

#: Examples computed, padding included, may be this many times the real ones.
MOST_PADDING = 1.25
#: For Poisson batches; to put the clients of a step into buckets costs copies of their parameters.
MOST_POISSON_PADDING = 1.5


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the first `clients` clients.

    `index` [clients, width] are places in each client's own shard, padding repeats its first one;
    `counts` [clients] are the real examples of each batch; `mask` [clients, width] is 1 for them,
    None where nothing is padded. `start`: all clients' batches are their examples from there on,
    without gaps or padding. `buckets`, of Poisson batches, are rows that are computed together and
    how wide their batches are; they come without a mask.
    """

    clients: int
    index: Tensor
    counts: Tensor
    mask: Tensor | None
    start: int | None = None
    buckets: Sequence[tuple[Tensor, int]] = ()

    @property
    def width(self) -> int:
        """Return how many examples a batch has, padding included."""
        return self.index.shape[1]

    def of(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the batches [.., width, ...] of `x`, of which client i has `places[i]`."""
        if self.start is not None and places.numel() == len(x):  # all there is, in order
            return self.take(x.view(*places.shape, *x.shape[1:]))
        chosen = places[: self.clients].gather(1, self.index)
        return x.index_select(0, chosen.flatten()).view(*chosen.shape, *x.shape[1:])

    def take(self, rows: Tensor) -> Tensor:
        """Return the batches [.., width, ...] of `rows` [clients, examples, ...]."""
        own = rows[: self.clients]
        if self.start is not None:
            return own[:, self.start : self.start + self.width]
        chosen = own.flatten(0, 1).index_select(0, self.flat(rows.shape[1]))
        return chosen.view(self.clients, self.width, *rows.shape[2:])

    def flat(self, examples: int) -> Tensor:
        """Return the places of the step's examples among [clients x examples] rows."""
        first = torch.arange(self.clients, device=self.index.device).unsqueeze(1) * examples
        return (first + self.index).flatten()


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of some clients, in the order in which they are stacked.

    `seen` [clients] is how many examples each trains on, epochs counted; `padding` is computed over
    real examples, at least 1. `expected` is the size of each client's Poisson batches, `sizes`
    are those of the shards they come from.
    """

    steps: list[Step]
    seen: Tensor
    padding: float
    expected: Sequence[int] = ()
    sizes: Sequence[int] = ()


def batch_sizes(size: int, recipe: Recipe, *, full_batch: bool) -> list[int]:
    """Return how many examples each of a client's batches has.

    >>> batch_sizes(5, Recipe(batch_size=2, epochs=2), full_batch=False)
    [2, 2, 1, 2, 2, 1]
    """
    if recipe.clipping:  # in expectation
        expected, steps = steps_of(size, recipe, full_batch=full_batch)
        return [expected] * steps
    width = size if full_batch else recipe.batch_size or size
    one_pass = [min(width, size - start) for start in range(0, size, width)]
    passes = recipe.epochs if recipe.steps is None else -(-recipe.steps // len(one_pass))
    return (one_pass * passes)[: recipe.steps]


def groups(sizes: Sequence[int], recipe: Recipe, *, full_batch: bool) -> list[list[int]]:
    """Split clients of such sizes so that padding stays below `MOST_PADDING`.

    Returns lists of places in `sizes`; in each the clients with the most steps come first.

    >>> groups([20, 19, 5], Recipe(batch_size=0), full_batch=False)
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


def first_pass(sizes: Sequence[int], contexts: Sequence[ClientContext]) -> np.ndarray:
    """Return the order in which clients first go through their examples: [clients, most]."""
    return epoch_orders(client_keys(contexts), np.array(sizes), 0)


def plan_steps(
    sizes: Sequence[int],
    recipe: Recipe,
    contexts: Sequence[ClientContext],
    device: torch.device,
    *,
    full_batch: bool,
    is_ordered: bool = False,
) -> Schedule:
    """Stack the batches that clients would train on alone; those with the most steps come first.

    `is_ordered`: each client's examples lie in the order of its first pass already.
    """
    keys, size = client_keys(contexts), np.array(sizes)
    takes_all = full_batch or not recipe.batch_size
    width = size if takes_all else np.full_like(size, recipe.batch_size)
    per_pass = -(-size // width)
    steps = np.full_like(size, recipe.steps) if recipe.steps else per_pass * recipe.epochs
    passes = _Passes(keys, size, is_ordered=is_ordered)
    planned, computed, real = [], 0, 0
    for number in range(int(steps.max())):
        active = int((steps > number).sum())
        epoch, batch = np.divmod(number, per_pass[:active])
        start = batch * width[:active]
        counts = np.minimum(width[:active], size[:active] - start)
        place = np.arange(counts.max())
        is_real = place < counts[:, None]
        # Padding repeats the client's first example, which masks then hide.
        at = np.where(is_real, start[:, None] + place, 0)
        index = np.take_along_axis(passes.orders(epoch), at, axis=1)
        mask = None if is_real.all() else _on(device, is_real.astype(np.float32))
        is_slice = is_ordered and mask is None and not epoch.any() and (start == start[0]).all()
        first = int(start[0]) if is_slice else None
        planned.append(Step(active, _on(device, index), _on(device, counts), mask, first))
        computed, real = computed + index.size, real + int(counts.sum())
    whole, rest = np.divmod(steps, per_pass)
    seen = whole * size + np.minimum(rest * width, size)
    return Schedule(planned, _on(device, seen), computed / real)


def plan_poisson(
    sizes: Sequence[int],
    recipe: Recipe,
    contexts: Sequence[ClientContext],
    device: torch.device,
    *,
    full_batch: bool,
) -> Schedule:
    """Stack the Poisson batches of DP-SGD; clients with the most steps come first."""
    batches = [batch_sizes(size, recipe, full_batch=full_batch) for size in sizes]
    expected = [own[0] for own in batches]
    draw = _drawer(recipe, sizes, expected, contexts)
    planned, computed, seen = [], 0, np.zeros(len(sizes), dtype=np.int64)
    for number in range(len(batches[0])):
        active = sum(len(own) > number for own in batches)
        drawn = draw(active, number)
        counts = drawn.sum(axis=1)
        is_real = np.arange(counts.max()) < counts[:, None]
        # Padding repeats the client's first example: who computes looks at the counts.
        index = np.where(is_real, np.argsort(~drawn, kind="stable")[:, : counts.max()], 0)
        own = buckets(counts)
        rows = [(_on(device, members), width) for members, width in own]
        planned.append(Step(active, _on(device, index), _on(device, counts), None, buckets=rows))
        computed += sum(len(members) * width for members, width in own)
        seen[:active] += counts
    padding = max(1.0, computed / max(1, int(seen.sum())))
    return Schedule(planned, _on(device, seen), padding, expected, sizes)


def _drawer(
    recipe: Recipe, sizes: Sequence[int], expected: Sequence[int], contexts: Sequence[ClientContext]
) -> Callable[[int, int], np.ndarray]:
    """Return (clients, step) -> who of their examples is in the step's batch, each step in turn."""
    assert recipe.clipping is not None
    if recipe.clipping.source == "torch":
        keys = torch.from_numpy(client_keys(contexts))
        rates = [e / size for e, size in zip(expected, sizes, strict=True)]
        return lambda active, number: np.asarray(
            poisson_members(keys[:active], sizes[:active], rates[:active], number)
        )
    streams = [stream_of(ctx) for ctx in contexts]

    def members(active: int, number: int) -> np.ndarray:
        drawn = np.zeros((active, max(sizes)), dtype=np.bool_)
        for own, stream, size, e in zip(drawn, streams, sizes, expected, strict=False):
            own[batch(stream, size, e).numpy()] = True
        return drawn

    return members


def buckets(counts: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Split clients with batches of such sizes so that padding stays below `MOST_POISSON_PADDING`.

    Returns (places in `counts`, width of their batches); who has no example is in none of them.

    >>> buckets(np.array([3, 0, 1, 10]))
    [(array([3]), 10), (array([0, 2]), 3)]
    """
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    found, first = [], 0
    while first < len(order):
        own = counts[order[first:]]
        # Real examples over computed ones fall with every smaller batch that joins.
        cost = own[0] * np.arange(1, len(own) + 1) / own.cumsum()
        last = first + int((cost <= MOST_POISSON_PADDING).sum())
        found.append((np.sort(order[first:last]), int(own[0])))
        first = last
    return found


def _on(device: torch.device, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device)


class _Passes:
    """The orders in which clients go through their examples, pass by pass."""

    def __init__(self, keys: np.ndarray, size: np.ndarray, *, is_ordered: bool) -> None:
        self._keys, self._size, self._is_ordered = keys, size, is_ordered
        self._drawn: dict[int, np.ndarray] = {}

    def orders(self, epoch: np.ndarray) -> np.ndarray:
        """Return the order of each client's current pass: [clients, examples]."""
        current = np.unique(epoch).tolist()
        for number in [number for number in self._drawn if number < current[0]]:
            del self._drawn[number]
        order = self._pass(current[0])[: len(epoch)]
        for number in current[1:]:
            order = np.where((epoch == number)[:, None], self._pass(number)[: len(epoch)], order)
        return order

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._drawn:
            self._drawn[number] = self._draw(number)
        return self._drawn[number]

    def _draw(self, number: int) -> np.ndarray:
        """Return where the examples of a pass lie."""
        if not self._is_ordered:
            return epoch_orders(self._keys, self._size, number)
        if number == 0:
            return np.broadcast_to(np.arange(self._size.max()), (len(self._size), self._size.max()))
        lies = np.argsort(epoch_orders(self._keys, self._size, 0), axis=1)
        return np.take_along_axis(lies, epoch_orders(self._keys, self._size, number), axis=1)
