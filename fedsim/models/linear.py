"""Linear model: logistic regression, softmax regression or least squares, by the loss."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import nn

from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem

__all__ = ["Linear"]


@dataclass(frozen=True, slots=True)
class Linear:
    """One dense layer on the flattened input; `zero` starts it at zero instead of at random.

    `norm_groups`: input channels are normalized in so many groups first (Wu and He, ECCV 2018),
    with no scale or shift to learn; each example by itself, as privacy needs. 0: not at all.
    """

    bias: bool = True
    zero: bool = False
    norm_groups: Annotated[int, Ge(0)] = 0

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: [n, ...] -> [n, outputs]."""
        inputs = torch.Size(meta.input_shape).numel()
        layer = nn.Linear(inputs, meta.outputs, bias=self.bias)
        if self.zero:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        if not self.norm_groups:
            return nn.Sequential(nn.Flatten(), layer)
        channels = meta.input_shape[0]
        if channels % self.norm_groups:
            accepted = f"a number that divides the {channels} input channels, or 0"
            raise ConfigError([Problem("model.norm_groups", self.norm_groups, accepted)])
        norm = nn.GroupNorm(self.norm_groups, channels, affine=False)
        return nn.Sequential(norm, nn.Flatten(), layer)
