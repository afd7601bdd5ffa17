"""Models that published tables used and that are no model of ours, named as a user's are."""

from torch import Tensor, nn

from fedsim.data import Meta

__all__ = ["fedlab"]

_MEAN, _DEVIATION = 0.1307, 0.3081  # of MNIST: our data set's inputs are standardized by them


def fedlab(meta: Meta) -> nn.Module:
    """Return the table's network of 50 hidden units, on inputs in [0, 1] as FedLab has them."""
    return nn.Sequential(
        nn.Flatten(), _Unit(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, meta.outputs)
    )


class _Unit(nn.Module):
    """Standardized pixels as numbers in [0, 1] again."""

    def forward(self, x: Tensor) -> Tensor:
        return x * _DEVIATION + _MEAN
