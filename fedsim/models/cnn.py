"""Convolutional network with group norm, which, unlike batch norm, keeps examples apart."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from fedsim.data import Meta
from fedsim.models._image import as_images, image_shape

__all__ = ["Cnn"]


@dataclass(frozen=True, slots=True)
class Cnn:
    """Blocks of (3x3 convolution, group norm, ReLU, 2x2 max-pool), then two dense layers.

    `channels`: one block each; pooling stops where the image is below 4 pixels. Group norm (Wu and
    He, ECCV 2018) has no statistics across examples: per-example gradients exist, and clients with
    different labels do not average each other's statistics (Hsieh et al., ICML 2020).
    """

    channels: tuple[Annotated[int, Gt(0)], ...] = (16, 32)
    hidden: Annotated[int, Gt(0)] = 64
    groups: Annotated[int, Gt(0)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: images [n, ...] -> [n, outputs]."""
        shape = image_shape(meta.input_shape, "cnn")
        inputs, height, width = shape
        layers: list[nn.Module] = []
        for outputs in self.channels:
            groups = self.groups if outputs % self.groups == 0 else 1
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [convolution, nn.GroupNorm(groups, outputs), nn.ReLU()]
            if min(height, width) >= 4:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            inputs = outputs
        layers += [nn.Flatten(), nn.Linear(inputs * height * width, self.hidden), nn.ReLU()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return _Images(shape, nn.Sequential(*layers, nn.Linear(self.hidden, meta.outputs)))


class _Images(nn.Module):
    def __init__(self, shape: tuple[int, int, int], layers: nn.Module) -> None:
        super().__init__()
        self.shape, self.layers = shape, layers

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(as_images(x, self.shape))
        return result
