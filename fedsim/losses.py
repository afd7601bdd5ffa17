"""Losses: `loss(output, target)`, the mean over a batch.

The convention of the whole platform: models give one output per class, [n, classes] or
[n, length, classes]; for a single number (binary, regression) they give [n, 1]. Targets are [n] or
[n, length]. A user's model that gives [n] instead of [n, 1] works too.
"""

from typing import Protocol

from torch import Tensor
from torch.nn import functional

__all__ = ["KINDS", "LOSSES", "Loss", "default", "each"]

_MANY, _FEW = 512, 16  # rows, classes


class Loss(Protocol):
    """A loss of a batch: its mean, or with `reduction="none"` that of every element, flat."""

    def __call__(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Return the loss."""
        ...


def cross_entropy(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Softmax cross-entropy in nats; target: int64 class ids, [n] or [n, length]."""
    rows, classes = output.flatten(0, -2), target.flatten()
    if len(rows) >= _MANY and rows.shape[1] < _FEW:
        # torch goes through rows of fewer than sixteen numbers one number after another. With the
        # classes as rows it does many examples at once: of 5000 with 10 classes, in a sixth of the
        # time.
        found = functional.cross_entropy(rows.t()[None], classes[None], reduction=reduction)
        return found.flatten() if reduction == "none" else found
    return functional.cross_entropy(rows, classes, reduction=reduction)


def binary(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Logistic loss of one output per example; target 0 or 1."""
    flat = output.flatten(), target.flatten().float()
    return functional.binary_cross_entropy_with_logits(*flat, reduction=reduction)


def mse(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(output.flatten(), target.flatten(), reduction=reduction)


def mae(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Mean absolute error."""
    return functional.l1_loss(output.flatten(), target.flatten(), reduction=reduction)


LOSSES: dict[str, Loss] = {
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


def each(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Return the loss of every element of `target`, whatever its leading axes."""
    return loss(output, target, reduction="none").view(target.shape)
