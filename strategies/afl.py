"""AFL, agnostic federated learning: the model for the mixture of clients that is worst for it.

Mohri, Sivek and Suresh, "Agnostic federated learning", ICML 2019, equation 4 and Figure 2
(Stochastic-AFL): w descends and lambda ascends on sum_k lambda_k F_k(w), lambda projected on the
simplex (Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions",
ICML 2008, Figure 1). The clients' half, `clients/afl.py`, sends F_k(w). Deviations: a client takes
its recipe's steps, not one; of a cohort, only those asked count in a step and move lambda.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update

__all__ = ["CLIENT_UNIT", "Afl", "on_simplex"]

#: A client's number is sent in multiples of this: lanes are bounded like updates.
CLIENT_UNIT = 2.0**20


@dataclass(frozen=True, slots=True)
class Afl:
    """Move by the mean of updates weighted by lambda; raise lambda where the loss is large.

    `lambda_lr`: the step of lambda. `lr`: server learning rate.
    """

    lr: Annotated[float, Gt(0)] = 1.0
    lambda_lr: Annotated[float, Gt(0)] = 0.1

    needs: ClassVar = "updates"
    goes_with: ClassVar = ("afl",)

    def init(self, model: Tensor) -> State:
        """Start from the initial model; lambda is uniform until clients are known."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Take the step of the model by the old lambda, and that of lambda by the old model."""
        ids = _clients(total, ctx)
        count = max(ctx.population, int(ids.max()) + 1)
        mixture = state.get("lambda", torch.full((count,), 1 / count, dtype=torch.float64))
        own = mixture[ids] if mixture[ids].sum() > 0 else torch.ones(len(ids), dtype=torch.float64)
        move = own @ torch.stack([update.vector.double() for update in total]) / own.sum()
        raised = mixture.clone()
        raised[ids] += self.lambda_lr * torch.cat([u.lanes["loss"].double() for u in total])
        return {"model": state["model"] + self.lr * move, "lambda": on_simplex(raised)}


def _clients(total: Sequence[Update], ctx: RoundContext) -> Tensor:
    """Return whose updates these are: as they say, if together they name those who sent them."""
    said = torch.cat([update.lanes["client"] for update in total]).double() * CLIENT_UNIT
    ids = said.round().long()
    known = torch.tensor(list(ctx.clients) or ids.tolist(), dtype=torch.int64)
    return ids if torch.equal(ids.sort().values, known.sort().values) else known


def on_simplex(vector: Tensor) -> Tensor:
    """Return the nearest vector of numbers that are not negative and sum to 1.

    >>> on_simplex(torch.tensor([0.5, 1.5, -3.0]))
    tensor([0., 1., 0.])
    """
    ordered = vector.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    counts = torch.arange(1, len(vector) + 1, dtype=vector.dtype)
    last = int((ordered * counts > excess).nonzero().max())
    found: Tensor = (vector - excess[last] / (last + 1)).clamp(min=0)
    return found
