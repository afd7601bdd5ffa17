"""Linear model: logistic regression, softmax regression or least squares, by the loss."""

from dataclasses import dataclass

import torch
from torch import nn

from fedsim.data import Meta

__all__ = ["Linear"]


@dataclass(frozen=True, slots=True)
class Linear:
    """One dense layer on the flattened input; `zero` starts it at zero instead of at random."""

    bias: bool = True
    zero: bool = False

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: [n, ...] -> [n, outputs]."""
        inputs = torch.Size(meta.input_shape).numel()
        layer = nn.Linear(inputs, meta.outputs, bias=self.bias)
        if self.zero:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        return nn.Sequential(nn.Flatten(), layer)
