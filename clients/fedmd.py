"""FedMD on a client: a model of its own kind, which others know only by its scores.

Li and Wang, "FedMD: heterogenous federated learning via model distillation", NeurIPS workshop 2019,
Algorithm 1: a client trains its model to approach the consensus scores on public inputs (digest),
then on its own examples (revisit), and sends its scores of the public inputs (communicate). The
strategy `fedmd` takes their mean. As in the authors' code the digest is the mean absolute error
between scores before the softmax. Deviations: all public inputs are used in every round, and nobody
trains on labels of them beforehand: they need none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from fedsim import losses
from fedsim.clients._local import train_locally
from fedsim.clients._own_module import check_models, own_module
from fedsim.clients._steps import apart
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import get_vector

__all__ = ["FedMD"]

_MODEL = "model"


@dataclass(frozen=True, slots=True)
class FedMD:
    """Nothing but scores is sent; no model is shared.

    `models`: client i has the i-th of them, in turn, with its settings in `args`; empty: `model`.
    `digest_epochs` on public inputs, in batches of `digest_batch_size`, then `epochs` or `steps` on
    the client's examples.
    """

    models: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    digest_epochs: Annotated[int, Ge(0)] = 1
    digest_batch_size: Annotated[int, Ge(0)] = 64
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None
    lanes: ClassVar = (("scores", "public"),)
    goes_with: ClassVar = ("fedmd",)
    needs_public: ClassVar = True

    def __post_init__(self) -> None:
        """Refuse models that do not exist, or settings that they do not have."""
        check_models(self.models, self.args)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Digest, revisit, communicate; keep the model."""
        module = self._module(task, memo, ctx)
        own = replace(task, module=module, model=get_vector(module), extras={})
        if task.public is not None and "scores" in task.extras and self.digest_epochs:
            wanted = task.extras["scores"].view(len(task.public.x), -1)
            public = replace(own, x=task.public.x, y=wanted, loss=losses.LOSSES["mae"])
            digest = Recipe(self.digest_epochs, None, self.digest_batch_size)
            train_locally(public, {}, apart(ctx, "digest"), digest)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        update, _ = train_locally(own, {}, ctx, recipe)
        lanes = {}
        if task.public is not None:
            with torch.no_grad():
                lanes["scores"] = module.eval()(task.public.x).reshape(-1).cpu()
        nothing = torch.zeros(task.model.numel())
        kept = {_MODEL: get_vector(module).cpu()}
        return replace(update, vector=nothing, weight=1.0, lanes=lanes), kept

    def personal(self, memo: Memo, model: Tensor) -> Tensor:
        """Return the client's own model, as a vector of its own kind."""
        return memo.get(_MODEL, model)

    def adapted(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        """Return the client's own model."""
        return self._module(task, memo, ctx)

    def _module(self, task: Task, memo: Memo, ctx: ClientContext) -> nn.Module:
        return own_module(task, memo.get(_MODEL), self.models, self.args, ctx)
