"""A flat vector as the tensors that it is made of."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.coding import Shapes

__all__ = ["of_parts", "part_of", "parts_of", "sizes_of"]


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
    """Return the flat parts of flat vectors [..., model]: views."""
    return torch.split(vector, sizes_of(shapes), dim=-1)


def of_parts(numbers: Sequence[Tensor], shapes: Shapes) -> Tensor:
    """Return what each tensor has one number of, [clients, 1], for each of its coordinates."""
    sizes = sizes_of(shapes)
    return torch.cat([own.expand(-1, n) for own, n in zip(numbers, sizes, strict=True)], dim=1)
