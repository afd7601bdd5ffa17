"""Clients of unequal size, trained at once and one by one."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from fedsim import losses, models
from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Recipe, Task
from fedsim.data import Meta
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized.block import train_block

SIZES = (9, 4, 12, 1, 7)


@dataclass
class Clients:
    """Some clients' examples, one after another, and how they train."""

    task: Task
    sizes: tuple[int, ...]
    contexts: list[ClientContext]

    def alone(self, recipe, memos=None):
        """Return what each client comes to by itself: (vectors, losses, memos)."""
        found, start = [], 0
        for i, size in enumerate(self.sizes):
            set_vector(self.task.module, self.task.model)
            own = slice(start, start + size)
            task = replace(self.task, x=self.task.x[own], y=self.task.y[own])
            update, memo = train_locally(task, (memos or {}).get(i, {}), self.contexts[i], recipe)
            found.append((update.vector, update.metrics.get("loss", torch.nan), memo))
            start += size
        vectors, seen, kept = zip(*found, strict=True)
        return torch.stack(vectors), torch.tensor(seen), dict(enumerate(kept))

    def groups(self, fit, recipe, memos=None):
        """Train them at once: what `train_block` yields."""
        set_vector(self.task.module, self.task.model)
        own = [(memos or {}).get(i, {}) for i in range(len(self.sizes))]
        return list(train_block(fit, self.task, recipe, self.sizes, own, self.contexts))

    def together(self, fit, recipe, memos=None):
        """Return what they come to at once: (vectors, losses, memos)."""
        vectors, seen, kept = {}, {}, {}
        for group in self.groups(fit, recipe, memos):
            for i, vector, loss, memo in zip(
                group.members, group.change.vectors(), group.losses, group.memos, strict=True
            ):
                vectors[i], seen[i], kept[i] = vector, loss, memo
        order = range(len(self.sizes))
        return torch.stack([vectors[i] for i in order]), torch.stack([seen[i] for i in order]), kept


def make_clients(
    model: Any, meta: Meta, *, optimizer: Any = None, loss: str = "", sizes=SIZES, **options: Any
) -> Clients:
    """Return clients with random examples; `options` are the task's."""
    module = models.build(model, meta, seed=3)
    generator = torch.Generator().manual_seed(1)
    count = sum(sizes)
    if meta.vocabulary:
        x = torch.randint(meta.vocabulary, (count, *meta.input_shape), generator=generator)
    else:
        x = torch.randn(count, *meta.input_shape, generator=generator)
    shape = (count, *meta.input_shape) if meta.vocabulary == meta.outputs > 0 else (count,)
    if meta.kind == "classification":
        y = torch.randint(meta.outputs, shape, generator=generator)
    elif meta.kind == "binary":
        y = torch.randint(2, shape, generator=generator).float()
    else:
        y = torch.randn(shape, generator=generator)
    chosen = losses.LOSSES[loss or losses.default(meta.kind)]
    part = optimizer or Sgd(lr=0.1)
    task = Task(module, get_vector(module), x, y, chosen, part, **options)
    contexts = [ClientContext(11, 2, 5 + 3 * i, lr_factor=0.7) for i in range(len(sizes))]
    return Clients(task, tuple(sizes), contexts)


def assert_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Compare (vectors, losses, memos) to 1e-6; a loss that nobody has is NaN."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        one[1].double(), other[1].double(), rtol=1e-6, atol=1e-6, equal_nan=True
    )
    assert one[2].keys() == other[2].keys()
    for i, memo in one[2].items():
        assert memo.keys() == other[2][i].keys()
        for name in memo:
            torch.testing.assert_close(memo[name], other[2][i][name], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="session")
def clients():
    """`clients(model, meta, ...)` -> `Clients`."""
    return make_clients


@pytest.fixture(scope="session")
def same():
    """`same(one, other)`: equal to 1e-6."""
    return assert_equal


@pytest.fixture(scope="session")
def recipe():
    """Two epochs in batches of four."""
    return Recipe(epochs=2, batch_size=4)
