"""A flat vector as the tensors that it is made of."""

import math

import torch
from torch import Tensor

from fedsim.coding import Shapes

__all__ = ["part_of", "parts_of", "sizes_of"]


def part_of(fraction: float, dimension: int) -> int:
    """Return how many coordinates a fraction of them is: at least one.

    >>> part_of(0.05, 50)
    3
    """
    return max(1, math.ceil(fraction * dimension))


def sizes_of(shapes: Shapes) -> list[int]:
    """Return how many numbers each tensor has.

    >>> sizes_of(((3, 4), (4,), ()))
    [12, 4, 1]
    """
    return [math.prod(shape) for shape in shapes]


def parts_of(vector: Tensor, shapes: Shapes) -> tuple[Tensor, ...]:
    """Return the flat parts of a flat vector: views."""
    return torch.split(vector, sizes_of(shapes))
