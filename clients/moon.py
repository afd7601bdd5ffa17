"""MOON: local training that keeps a client's representation near to that of the global model.

Li, He and Song, "Model-contrastive federated learning", CVPR 2021, equations 3 and 4: the loss plus
mu times -log(exp(sim(z, z_glob) / tau) / (exp(sim(z, z_glob) / tau) + exp(sim(z, z_prev) / tau))),
with the representations of an input by the model in training, by the one that the client was sent
and by the one that it had trained before (Algorithm 1). Deviations: the representation is what goes
into the last layer, without a projection head of its own; those of the two fixed models are
computed without dropout, once for a round. A client's first round has no model before it, and no
such term.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from fedsim import dropout, training
from fedsim.clients._steps import Batch, gradients, take_steps, update_of
from fedsim.core import ClientContext, Memo, Recipe, Task, Update
from fedsim.models import features, features_of, get_vector, named, no_features

__all__ = ["Moon", "contrast"]

_MODEL = "model"
_ROWS = 1024  # at a time, where representations are computed for a round


@dataclass(frozen=True, slots=True)
class Moon:
    """Like `sgd`, with `mu` times the contrastive loss at `temperature` (tau)."""

    mu: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 0.5
    epochs: Annotated[int, Ge(1)] = 1
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(0)] = 32

    recipe: ClassVar[None] = None

    def refuses(self, module: nn.Module) -> str:
        """Say why a model has no representation to compare, or nothing."""
        return no_features(module)

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard with the contrastive term; keep the model, for the next time."""
        parameters = training.trainable(task.module)
        state = task.optimizer.start(parameters)
        recipe = Recipe(self.epochs, self.steps, self.batch_size)
        fixed = [task.model, memo[_MODEL].to(task.model.device)] if _MODEL in memo else []
        seen = [_seen_by(task, vector) for vector in fixed]

        def step(batch: Batch) -> Tensor:
            with dropout.keyed(batch.keys, batch.number):
                z, output = features(task.module, batch.x)
            loss = task.loss(output, batch.y)
            whole = loss
            if seen:
                near, far = (rows[batch.index] for rows in seen)
                whole = loss + self.mu * contrast(z, near, far, self.temperature)
            moves = gradients(whole, parameters)
            training.take_step(task, recipe, parameters, moves, [], state, ctx.lr_factor)
            return loss

        update = update_of(task, take_steps(task, recipe, ctx, step))
        return update, {_MODEL: get_vector(task.module).cpu()}


def contrast(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """Return the mean contrastive loss of representations [n, features]: equation 3.

    >>> z = torch.tensor([[1.0, 0.0]])
    >>> round(float(contrast(z, z, -z, 0.5)), 4)  # log(1 + exp(-4))
    0.0181
    """
    sides = [functional.cosine_similarity(z, other, dim=1) / temperature for other in (near, far)]
    return functional.softplus(sides[1] - sides[0]).mean()


def _seen_by(task: Task, vector: Tensor) -> Tensor:
    """Return the representations of all examples by the model of a vector."""
    tensors = named(task.module, vector)
    return torch.cat([features_of(task.module, tensors, x) for x in torch.split(task.x, _ROWS)])
