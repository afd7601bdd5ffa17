"""The small LeNet of NIID-Bench, for comparison with its published tables."""

from dataclasses import dataclass

from torch import nn

from fedsim.data import Meta
from fedsim.errors import ConfigError, Problem
from fedsim.models._image import image_shape

__all__ = ["Lenet"]


@dataclass(frozen=True, slots=True)
class Lenet:
    """Convolutions 6@5x5 and 16@5x5 with max-pooling, dense 120, 84, outputs.

    Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022, section V-A.
    """

    def build(self, meta: Meta) -> nn.Module:
        """Return the module: images [n, ...] of at least 16x16 -> [n, outputs]."""
        channels, height, width = image_shape(meta.input_shape, "lenet")
        if min(height, width) < 16:
            accepted = f"a model for {height}x{width} images, such as cnn; lenet needs 16x16"
            raise ConfigError([Problem("model.name", "lenet", accepted)])
        flat = 16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        return nn.Sequential(
            nn.Flatten(),
            nn.Unflatten(1, (channels, height, width)),
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(flat, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, meta.outputs),
        )
