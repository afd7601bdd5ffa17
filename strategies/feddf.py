"""FedDF: the mean model learns from what all clients' models say about public inputs.

Lin, Kong, Stich and Jaggi, "Ensemble distillation for robust model fusion in federated learning",
NeurIPS 2020, Algorithm 1 and equation 1: from x_0 = sum n_k/n x_k on, x <- x - eta grad
KL(softmax(mean_k f(x_k, d)), softmax(f(x, d))) on batches d of unlabelled data, by Adam with a
cosine schedule (section 4.1). Deviations: a fixed number of steps, and the student is trained as it
is tested: without dropout, its batch normalization as averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from fedsim.core import Public, RoundContext, State, Update
from fedsim.models import get_vector, set_vector

__all__ = ["FedDF"]


@dataclass(frozen=True, slots=True)
class FedDF:
    """FedAvg, and then `steps` of distillation on `[public]` inputs, in batches, at rate `lr`."""

    steps: Annotated[int, Ge(0)] = 100
    batch_size: Annotated[int, Ge(1)] = 64
    lr: Annotated[float, Gt(0)] = 1e-3

    needs: ClassVar = "updates"
    optimum: ClassVar = "mean"
    needs_public: ClassVar = True
    contract: ClassVar = {"steps": 5}  # each is a pass over public inputs: tests take hundreds
    kinds: ClassVar = ("classification",)

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move to the mean of the clients' models, and learn from all of them."""
        weights = [update.weight for update in total]
        moved = [w * update.vector.double() for w, update in zip(weights, total, strict=True)]
        model = state["model"] + torch.stack(moved).sum(0) / math.fsum(weights)
        if ctx.public is None or not self.steps:
            return {"model": model}
        clients = [(state["model"] + update.vector).float() for update in total]
        return {"model": self._distilled(model, clients, ctx.public, ctx).double()}

    def _distilled(
        self, model: Tensor, clients: Sequence[Tensor], public: Public, ctx: RoundContext
    ) -> Tensor:
        """Return the model after its steps towards the mean of the clients' outputs."""
        module = public.module.eval()
        with torch.no_grad():
            outputs = [_output(public, vector) for vector in clients]
            taught = functional.softmax(torch.stack(outputs).mean(0), dim=-1)
        set_vector(module, model.float())
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        stream = ctx.rng("distillation")
        for _ in range(self.steps):
            size = min(self.batch_size, len(public.x))
            drawn = torch.from_numpy(stream.choice(len(public.x), size, replace=False))
            batch = drawn.to(public.x.device)
            said = functional.log_softmax(module(public.x[batch]), dim=-1)
            loss = functional.kl_div(
                said.flatten(0, -2), taught[batch].flatten(0, -2), reduction="batchmean"
            )
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, grads, strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        for parameter in parameters:
            parameter.grad = None
        return get_vector(module).cpu()


def _output(public: Public, vector: Tensor) -> Tensor:
    set_vector(public.module, vector)
    found: Tensor = public.module(public.x)
    return found
