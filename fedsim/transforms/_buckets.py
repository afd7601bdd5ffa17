"""Vectors in buckets of equal length, each with a scale of its own, rounded by chance."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["bucketed", "count", "stochastic"]


def count(size: int, bucket: int) -> int:
    """Return how many buckets `size` numbers fill.

    >>> count(10, 4)
    3
    """
    return -(-size // bucket)


def bucketed(vector: Tensor, bucket: int) -> Tensor:
    """Return a vector as rows of `bucket` numbers, float64, the last filled up with zeros."""
    whole = count(len(vector), bucket) * bucket
    rows = torch.zeros(whole, dtype=torch.float64, device=vector.device)
    rows[: len(vector)] = vector
    return rows.view(-1, bucket)


def stochastic(rows: Tensor, scales: Tensor, levels: int, stream: np.random.Generator) -> Tensor:
    """Return levels l, float64, such that the mean of l x scale / levels is the number itself.

    `scales` [buckets], float32: none of a bucket's numbers is larger, but for rounding.
    """
    steps = scales.double().unsqueeze(1).clamp(min=1e-300) / levels
    u = torch.from_numpy(stream.random(rows.shape)).to(rows.device)
    return (rows / steps + u).floor().clamp(-levels, levels)
