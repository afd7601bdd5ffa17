"""Small causal Transformer over tokens or time series."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem
from fedsim.models._sequence import SequenceIn, per_position

__all__ = ["Transformer"]


@dataclass(frozen=True, slots=True)
class Transformer:
    """Pre-norm decoder blocks with learned positions (Vaswani et al. 2017; Radford et al. 2019).

    Layer norm and plain matrix products only, so that per-example gradients exist.
    """

    size: Annotated[int, Gt(0)] = 64
    heads: Annotated[int, Gt(0)] = 4
    layers: Annotated[int, Gt(0)] = 2
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        """Refuse a size that the heads cannot share."""
        if self.size % self.heads:
            accepted = f"a divisor of model.size = {self.size}"
            raise ConfigError([Problem("model.heads", self.heads, accepted)])

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: [n, length] -> [n, length, outputs] or [n, outputs]."""
        return _Transformer(self, meta)


class _Transformer(nn.Module):
    def __init__(self, part: Transformer, meta: Meta) -> None:
        super().__init__()
        self.embed = SequenceIn(meta, part.size)
        self.position = nn.Parameter(torch.randn(meta.input_shape[0], part.size) * 0.02)
        self.blocks = nn.Sequential(*[_Block(part) for _ in range(part.layers)])
        self.norm = nn.LayerNorm(part.size)
        self.out = nn.Linear(part.size, meta.outputs)
        self.per_position = per_position(meta)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        states = self.norm(self.blocks(embedded + self.position[: embedded.shape[1]]))
        result: Tensor = self.out(states if self.per_position else states[:, -1])
        return result


class _Block(nn.Module):
    def __init__(self, part: Transformer) -> None:
        super().__init__()
        self.heads = part.heads
        self.norm1, self.norm2 = nn.LayerNorm(part.size), nn.LayerNorm(part.size)
        self.qkv = nn.Linear(part.size, 3 * part.size)
        self.project = nn.Linear(part.size, part.size)
        self.wide = nn.Linear(part.size, 4 * part.size)
        self.narrow = nn.Linear(4 * part.size, part.size)
        self.drop = nn.Dropout(part.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.project(self._attend(self.norm1(x))))
        result: Tensor = x + self.drop(self.narrow(functional.gelu(self.wide(self.norm2(x)))))
        return result

    def _attend(self, x: Tensor) -> Tensor:
        n, length, size = x.shape
        q, k, v = (
            part.reshape(n, length, self.heads, size // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(size // self.heads)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        heads: Tensor = weights @ v
        return heads.transpose(1, 2).reshape(n, length, size)
