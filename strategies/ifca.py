"""IFCA: several models at once; each client trains the one that fits it best.

Ghosh, Chung, Yin and Ramchandran, "An efficient framework for clustered federated learning",
NeurIPS 2020, Algorithm 1, lines 17 and 18 (model averaging): theta_j moves by the mean change of
the clients that chose it. The clients' half is `clients/ifca.py`.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim import rng
from fedsim.core import RoundContext, State, Sum

__all__ = ["Ifca"]


@dataclass(frozen=True, slots=True)
class Ifca:
    """Keep `clusters` models, all of which every client is sent; `lr`: server learning rate.

    They must begin apart: to each after the first is added noise of standard deviation `spread`,
    drawn from a stream that the initial model names. A model that nobody chose stays. The server's
    own test is of the first model alone.
    """

    clusters: Annotated[int, Ge(1)] = 2
    spread: Annotated[float, Gt(0)] = 0.1
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "sum"
    goes_with: ClassVar = ("ifca",)
    contract: ClassVar = {"clusters": 1}

    def init(self, model: Tensor) -> State:
        """Begin with models around the initial one."""
        seed = int.from_bytes(hashlib.sha256(model.numpy().tobytes()).digest()[:8])
        state: State = {"model": model}
        for j in range(1, self.clusters):
            noise = rng.stream(seed, f"ifca/{j}").standard_normal(model.numel())
            state[f"cluster/{j}"] = model + self.spread * torch.from_numpy(noise)
        return state

    def broadcast(self, state: State) -> dict[str, Tensor]:
        """Send the other models."""
        return {f"cluster/{j}": state[f"cluster/{j}"] for j in range(1, self.clusters)}

    def step(self, state: State, total: Sum, ctx: RoundContext) -> State:
        """Move each model by the mean change of its clients."""
        members = total.lanes["members"].round()
        names = ["model", *(f"cluster/{j}" for j in range(1, self.clusters))]
        changes = [total.vector, *(total.lanes[name] for name in names[1:])]
        return {
            name: state[name] + self.lr * change / count if count else state[name]
            for name, change, count in zip(names, changes, members.tolist(), strict=True)
        }
