"""Mimic: malicious clients all send what one honest client does, who so counts for too much.

Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR
2022, section 3.2 and appendix B: for some rounds Oja's method follows the direction z in which
honest updates vary most; then the client that was farthest along z is copied. Nothing that is sent
is an outlier: it is what heterogeneity alone makes harmful.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from fedsim.attacks._seen import Seen
from fedsim.core import Memo

__all__ = ["Mimic"]


@dataclass(frozen=True, slots=True)
class Mimic:
    """Copy the honest client that is farthest along the direction of most variance.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    `warmup`: rounds in which that direction is learned. Where the client that was found is not in
    a round, the one of its cohort that is farthest stands in.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    warmup: Annotated[int, Ge(1)] = 1

    needs: ClassVar = "updates"

    def craft(self, seen: Seen, memory: Memo, stream: np.random.Generator) -> tuple[Tensor, Memo]:
        """Return the update of the client to be copied, and what was learned of whom that is."""
        t = int(memory["rounds"]) if memory else 0
        if not memory:
            start = torch.from_numpy(stream.standard_normal(seen.honest.shape[1]))
            memory = {"mean": torch.zeros_like(start), "z": start}
        if t < self.warmup:
            memory = memory | _learned(seen.honest, memory, t)
        along = seen.honest @ memory["z"]
        if t < self.warmup:
            found = seen.clients[int(along.argmax())]
            memory["client"] = torch.tensor(found, dtype=torch.int64)
        client = int(memory["client"])
        place = seen.clients.index(client) if client in seen.clients else int(along.argmax())
        return seen.honest[place], memory | {"rounds": torch.tensor(t + 1)}


def _learned(honest: Tensor, memory: Memo, t: int) -> Memo:
    """Return the running mean and direction after round t (from 0): one step of Oja's method."""
    mean = (t * memory["mean"] + honest.mean(dim=0)) / (t + 1)
    away = honest - mean
    step = _unit(away.T @ (away @ memory["z"]))
    return {"mean": mean, "z": step if t == 0 else _unit(t * memory["z"] + step)}


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector)
    return vector / length.clamp(min=torch.finfo(vector.dtype).tiny)
