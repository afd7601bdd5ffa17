"""What mechanisms share: a row at a time, made finite and clipped.

Rows are not computed together, because a row's last bits could depend on how many there are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["by_row", "clipped"]


def by_row(
    randomize: Callable[[Tensor, Stream], Tensor], vectors: Tensor, streams: Sequence[Stream]
) -> Tensor:
    """Return what `randomize` makes of each row and its stream, in the rows' type and place.

    It gets float64 on the CPU. To round its result to the rows' precision is post-processing.
    Raises `ValueError` where there are more or fewer streams than rows.
    """
    randomized = torch.empty_like(vectors)
    for row, own, stream in zip(vectors, randomized, streams, strict=True):
        own.copy_(randomize(row.detach().cpu().double(), stream))
    return randomized


def clipped(vector: Tensor, clipping_norm: float, *, order: int) -> Tensor:
    """Return `vector`, float64, scaled to an L1 or L2 norm of at most `clipping_norm`.

    A vector that is not finite becomes zero.
    """
    largest = float(vector.abs().max()) if vector.numel() else 0.0
    if not 0 < largest < float("inf"):
        return torch.zeros_like(vector)
    unit = vector / largest  # squares of numbers near the largest double would be infinite
    norm = float(torch.linalg.vector_norm(unit, ord=order))
    return vector if largest * norm <= clipping_norm else unit * (clipping_norm / norm)
