"""Models that published tables used and that are no model of ours, named as a user's are."""

from torch import Tensor, nn

from fedsim.data import Meta
from fedsim.data.mnist import DEVIATION, MEAN

__all__ = ["fedlab"]


def fedlab(meta: Meta) -> nn.Module:
    """Return the table's network of 50 hidden units, on inputs in [0, 1] as FedLab has them."""
    return nn.Sequential(
        nn.Flatten(), _Unit(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, meta.outputs)
    )


class _Unit(nn.Module):
    """Standardized pixels as numbers in [0, 1] again."""

    def forward(self, x: Tensor) -> Tensor:
        return x * DEVIATION + MEAN
