"""Models of the contract tests' own, named in their experiments as a user's are."""

from torch import nn

from fedsim.data import Meta

__all__ = ["normalized"]


def normalized(meta: Meta) -> nn.Module:
    """Return a small network with batch normalization, for methods that keep it on clients."""
    return nn.Sequential(
        nn.Linear(meta.input_shape[0], 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, meta.outputs)
    )
