"""FedRep: a shared representation, and for each client a head that is fitted to it first.

Collins et al., "Exploiting shared representations for personalized federated learning", ICML 2021,
Algorithm 1: in each round a client takes many steps on its head with the representation as it was
sent (line 8), then a few on the representation with that head (line 10); only the representation
is averaged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from fedsim import training
from fedsim.clients._kept import head_names, head_places, personal, train_shared
from fedsim.clients._local import train_locally
from fedsim.clients._steps import apart
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_vector

__all__ = ["FedRep"]


@dataclass(frozen=True, slots=True)
class FedRep:
    """`head_epochs` of the last `layers` layers alone, then `epochs` or `steps` of the others."""

    layers: Annotated[int, Ge(1)] = 1
    head_epochs: Annotated[int, Ge(1)] = 10
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    contract: ClassVar = {"head_epochs": 1}

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train the client's own head, then the representation, and send that."""
        places = head_places(task.module, self.layers)
        return train_shared(task, memo, ctx, self._in_turn, places)

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the global representation with the client's own head."""
        return personal(memo, model)

    def _in_turn(self, task: Task, ctx: ClientContext) -> Update:
        head = head_names(task.module, self.layers)
        first = Recipe(self.head_epochs, None, self.batch_size)
        second = Recipe(self.epochs, self.steps, self.batch_size)
        with _only(task.module, head, is_in=True):
            update, _ = train_locally(task, {}, ctx, first)
        with _only(task.module, head, is_in=False):
            if training.trainable(task.module):
                between = replace(task, model=get_vector(task.module))
                then, _ = train_locally(between, {}, apart(ctx, "representation"), second)
                update = replace(update, vector=update.vector + then.vector)
        return update


@contextmanager
def _only(module: nn.Module, names: set[str], *, is_in: bool) -> Iterator[None]:
    """Freeze every parameter but those named, or those named, for a while."""
    frozen = [
        parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and (name in names) != is_in
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
