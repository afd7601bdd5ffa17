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

__all__ = ["Fit", "Trained", "train_block"]

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
    full_batch = task.optimizer.full_batch
    plan = plan_poisson if recipe.clipping else partial(plan_steps, is_ordered=is_ordered)
    counts = np.array(sizes)
    firsts = np.cumsum(counts) - counts
    for members in groups(sizes, recipe, full_batch=full_batch):
        chosen = [contexts[i] for i in members]
        schedule = plan(
            [sizes[i] for i in members], recipe, chosen, task.x.device, full_batch=full_batch
        )
        places = _places(firsts[members], counts[members]).to(task.x.device)
        own = [memos[i] for i in members]
        change, mean_losses, kept = fit(task, recipe, schedule, places, own, chosen)
        yield Trained(members, change, mean_losses, kept, schedule.padding, schedule.seen)


def _places(firsts: np.ndarray, counts: np.ndarray) -> Tensor:
    """Return where each client's examples are; beyond its last stands its first again."""
    place = np.arange(counts.max())
    own = np.where(place < counts[:, None], place, 0)
    return torch.from_numpy(firsts[:, None] + own)
