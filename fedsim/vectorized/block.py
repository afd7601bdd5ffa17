"""Train the clients of a block at once, in groups of similar size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedsim.core import ClientContext, Memo, Recipe, Task
from fedsim.vectorized.change import Changes
from fedsim.vectorized.schedule import Schedule, groups, plan_poisson, plan_steps

__all__ = ["Fit", "Trained", "padding_of", "train_block"]

#: (task, recipe, schedule, places, memos, contexts) -> (changes, losses, memos); `places`
#: [clients, most examples] says where in `task.x` each client's examples are.
Fit = Callable[
    [Task, Recipe, Schedule, Tensor, Sequence[Memo], Sequence[ClientContext]],
    tuple[Changes, Tensor, list[Memo]],
]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of some clients of a block: `members` are their places in it.

    `losses` [clients] are their mean losses per example, `padding` examples computed over real.
    `seen` [clients] is how many examples each trained on: with none there is no loss.
    """

    members: list[int]
    change: Changes
    losses: Tensor
    memos: list[Memo]
    padding: float
    seen: Tensor

    def metrics(self, examples: Sequence[float]) -> list[dict[str, float]]:
        """Return what each client reports; `examples` are how many each has."""
        trained = zip(self.losses.tolist(), self.seen.tolist(), examples, strict=True)
        return [{"loss": s, "examples": n} if seen else {"examples": n} for s, seen, n in trained]


def train_block(
    fit: Fit,
    task: Task,
    recipe: Recipe,
    sizes: Sequence[int],
    memos: Sequence[Memo],
    contexts: Sequence[ClientContext],
    *,
    is_ordered: bool = False,
) -> Iterator[Trained]:
    """Train clients whose examples follow each other in `task.x`; yields one group at a time.

    `is_ordered`: each client's examples lie in the order of `schedule.first_pass` already.
    """
    counts = np.array(sizes)
    firsts = np.cumsum(counts) - counts
    planned = _planned(
        recipe,
        sizes,
        contexts,
        task.x.device,
        full_batch=task.optimizer.full_batch,
        is_ordered=is_ordered,
    )
    for members, chosen, schedule in planned:
        places = _places(firsts[members], counts[members]).to(task.x.device)
        own = [memos[i] for i in members]
        change, mean_losses, kept = fit(task, recipe, schedule, places, own, chosen)
        yield Trained(members, change, mean_losses, kept, schedule.padding, schedule.seen)


def padding_of(
    recipe: Recipe, sizes: Sequence[int], contexts: Sequence[ClientContext], *, full_batch: bool
) -> float:
    """Return how many examples `train_block` computes for each there is, padding included."""
    device = torch.device("cpu")
    planned = _planned(recipe, sizes, contexts, device, full_batch=full_batch)
    real = [(int(schedule.seen.sum()), schedule.padding) for *_, schedule in planned]
    return sum(n * padding for n, padding in real) / max(1, sum(n for n, _ in real))


def _planned(
    recipe: Recipe,
    sizes: Sequence[int],
    contexts: Sequence[ClientContext],
    device: torch.device,
    *,
    full_batch: bool,
    is_ordered: bool = False,
) -> Iterator[tuple[list[int], list[ClientContext], Schedule]]:
    """Yield groups: clients' places, contexts and steps; Poisson batches where clipped."""
    plan = plan_poisson if recipe.clipping else partial(plan_steps, is_ordered=is_ordered)
    for members in groups(sizes, recipe, full_batch=full_batch):
        own, chosen = [sizes[i] for i in members], [contexts[i] for i in members]
        yield members, chosen, plan(own, recipe, chosen, device, full_batch=full_batch)


def _places(firsts: np.ndarray, counts: np.ndarray) -> Tensor:
    """Return where each client's examples are; beyond its last stands its first again."""
    place = np.arange(counts.max())
    own = np.where(place < counts[:, None], place, 0)
    return torch.from_numpy(firsts[:, None] + own)
