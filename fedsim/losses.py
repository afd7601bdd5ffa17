"""Losses: `loss(output, target)`, the mean over a batch.

The convention of the whole platform: models give one output per class, [n, classes] or
[n, length, classes]; for a single number (binary, regression) they give [n, 1]. Targets are [n] or
[n, length]. A user's model that gives [n] instead of [n, 1] works too.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

__all__ = ["KINDS", "LOSSES", "default"]


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy in nats; target: int64 class ids, [n] or [n, length]."""
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


def binary(output: Tensor, target: Tensor) -> Tensor:
    """Logistic loss of one output per example; target 0 or 1."""
    return functional.binary_cross_entropy_with_logits(output.flatten(), target.flatten().float())


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(output.flatten(), target.flatten())


def mae(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return functional.l1_loss(output.flatten(), target.flatten())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary": binary,
    "mse": mse,
    "mae": mae,
}

#: loss -> the kind of data it is for
KINDS = {
    "cross_entropy": "classification",
    "binary": "binary",
    "mse": "regression",
    "mae": "regression",
}


def default(kind: str) -> str:
    """Return the usual loss of a kind of data.

    >>> default("binary")
    'binary'
    """
    return {"classification": "cross_entropy", "binary": "binary", "regression": "mse"}[kind]
