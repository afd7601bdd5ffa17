"""A random rotation that spreads a vector evenly over its coordinates, and back.

Signs from a public seed, then the Walsh-Hadamard transform: whatever the vector, each coordinate of
the result is, over the signs, sub-Gaussian with variance |x|^2 / dimension. So no coordinate of a
sum is large, and few bits hold all of them: Kairouz, Liu and Steinke, "The distributed discrete
Gaussian mechanism for federated learning with secure aggregation", ICML 2021, section 4.2.

Nothing private rests on the signs. All steps are additions of single numbers, so one vector comes
out the same, bit by bit, alone or in a block of others.
"""

import math

import torch
from torch import Tensor

from fedsim.privacy.noise import Stream

__all__ = ["hadamard", "padded", "rotate", "signs", "unrotate"]

_PIECE = 2**15  # numbers of a vector that stay in the processor's cache
_WORD = 64


def padded(dimension: int) -> int:
    """Return the power of two that vectors of `dimension` are filled up to with zeros.

    >>> padded(1000), padded(1024), padded(1)
    (1024, 1024, 1)
    """
    return int(1 << max(0, dimension - 1).bit_length())


def signs(seed: int, round: int, dimension: int) -> Tensor:
    """Return the signs of a round, +1 and -1, for `padded(dimension)` coordinates: float64."""
    size = padded(dimension)
    words = Stream.seeded(seed, "rotation", round=round).words(-(-size // _WORD))
    bits = (words.unsqueeze(1) >> torch.arange(_WORD)) & 1
    return (1 - 2 * bits.flatten()[:size]).double()


def rotate(vectors: Tensor, signs: Tensor) -> Tensor:
    """Return vectors [clients, model] rotated: float64 [clients, padded], norms unchanged."""
    wide = torch.zeros(*vectors.shape[:-1], len(signs), dtype=torch.float64, device=vectors.device)
    wide[..., : vectors.shape[-1]] = vectors
    return hadamard(wide.mul_(signs.to(wide.device)))


def unrotate(vectors: Tensor, signs: Tensor, dimension: int) -> Tensor:
    """Undo `rotate`, of each vector [..., padded] or of sums of them: float64 [..., dimension]."""
    return hadamard(vectors.double().clone()).mul_(signs.to(vectors.device))[..., :dimension]


def hadamard(vectors: Tensor) -> Tensor:
    """Transform each vector [..., 2^p] in place and return it; it is its own inverse.

    Normalized by 2^(-p/2), so that it is a rotation (with a reflection).
    """
    size = vectors.shape[-1]
    if size & (size - 1) or not vectors.is_contiguous():
        raise ValueError(f"the transform needs contiguous vectors of length 2^p, not {size}")
    flat = vectors.view(-1)
    inside = min(size, _PIECE)
    for start in range(0, len(flat), inside * max(1, _PIECE // inside)):
        _butterflies(flat[start : start + inside * max(1, _PIECE // inside)], 1, inside)
    _butterflies(flat, inside, size)
    return vectors.mul_(1 / math.sqrt(size))


def _butterflies(flat: Tensor, width: int, end: int) -> None:
    """Replace pairs `width` apart by sum and difference, then 2 `width`, up to `end`."""
    while width < end:
        pairs = flat.view(-1, 2, width)
        left, right = pairs[:, 0], pairs[:, 1]
        difference = left - right
        left.add_(right)
        right.copy_(difference)
        width *= 2
