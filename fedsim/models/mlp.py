"""Multi-layer perceptron."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn

from fedsim.data import Meta

__all__ = ["Mlp"]

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


@dataclass(frozen=True, slots=True)
class Mlp:
    """Dense layers of `hidden` sizes on the flattened input, then one to the outputs."""

    hidden: tuple[Annotated[int, Gt(0)], ...] = (64,)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: [n, ...] -> [n, outputs]."""
        sizes = [torch.Size(meta.input_shape).numel(), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), _ACTIVATIONS[self.activation]()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(sizes[-1], meta.outputs))
