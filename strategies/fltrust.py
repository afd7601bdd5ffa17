"""FLTrust: clients count by how far they go the way of an update that the server makes itself.

Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust federated learning via trust bootstrapping",
NDSS 2021, section IV: with g_0 the server's own update, client i has the trust ReLU(cos(g_i, g_0)),
its update gets the length of g_0, and the mean is weighted by trust.
Breakdown point: none in the number of malicious clients; all rests on rows of the server that are
clean and like those of clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedsim.core import RoundContext, State, Update
from fedsim.errors import RunFailedError
from fedsim.strategies._robust import robust_step

__all__ = ["FlTrust", "trusted_mean"]


@dataclass(frozen=True, slots=True)
class FlTrust:
    """Move by the mean of updates that go the server's way, each as long as the server's own.

    The server trains as clients do, on `root_rows` rows: held out of all clients' training rows by
    the seed ("train", in simulations alone), or of its own test rows ("test"), on which nothing is
    tested then.
    """

    root_rows: Annotated[int, Ge(1)] = 100
    root: Literal["train", "test"] = "train"
    lr: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "updates"
    contract: ClassVar = {"root_rows": 8}

    def least(self) -> int:
        """Return the fewest updates: one."""
        return 1

    def init(self, model: Tensor) -> State:
        """Start from the initial model."""
        return {"model": model}

    def step(self, state: State, total: Sequence[Update], ctx: RoundContext) -> State:
        """Move by the trusted mean."""
        return robust_step(self, state, total, ctx)

    def aggregate(
        self, vectors: Tensor, state: State, ctx: RoundContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the trusted mean. Raises `RunFailedError` without the server's own update."""
        if ctx.root is None:
            raise RunFailedError("FLTrust needs an update of the server's own, and has none")
        return trusted_mean(vectors, ctx.root.double()), {}


def trusted_mean(vectors: Tensor, root: Tensor) -> Tensor:
    """Return the mean of vectors [clients, model], weighted by trust; zero where there is none.

    >>> rows = torch.tensor([[0.0, 3.0], [0.0, -9.0], [4.0, 0.0]])
    >>> trusted_mean(rows, torch.tensor([0.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    tiny = torch.finfo(vectors.dtype).tiny
    length = torch.linalg.vector_norm(root)
    units = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=tiny)
    trust = (units @ (root / length.clamp(min=tiny))).clamp(min=0)
    mean: Tensor = length * (trust @ units) / trust.sum().clamp(min=tiny)
    return mean
