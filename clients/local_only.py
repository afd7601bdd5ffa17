"""Local-only training: the baseline in which nobody shares anything.

Every client goes on from its own model round after round; its update is zero. What federation is
worth to a client is the difference to this.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext, Memo, Task, Update
from fedsim.models import set_vector

__all__ = ["LocalOnly"]

_MODEL = "model"


@dataclass(frozen=True, slots=True)
class LocalOnly:
    """Train with the local algorithm `inner`, starting from this client's own last model."""

    inner: Any = field(default_factory=Sgd)

    #: Every client starts from a model of its own, and none sends anything.
    recipe: ClassVar[None] = None

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train the client's own model; send a zero update."""
        own = self.personal(memo, task.model).to(task.model.device)
        set_vector(task.module, own)
        rest = {name: tensor for name, tensor in memo.items() if name != _MODEL}
        update, kept = self.inner.train(replace(task, model=own), rest, ctx)
        trained = own.cpu() + update.vector
        nothing = torch.zeros_like(update.vector)
        return replace(update, vector=nothing), {**kept, _MODEL: trained}

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the client's own model; the global one where it has not trained yet."""
        return memo.get(_MODEL, model)
