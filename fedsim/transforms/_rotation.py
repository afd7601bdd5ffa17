"""A vector turned at random, so that its numbers are nearly normal, and each turned alike.

The randomized Hadamard transform of DRIVE and EDEN (section 3.3 of the former): random signs, then
a Walsh-Hadamard transform. It needs lengths of 2^p: a vector is cut into pieces of such lengths,
each with a scale of its own, and only the last is filled up.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code
from fedsim.privacy.rotation import hadamard
from fedsim.transforms._bits import stream_of

__all__ = ["pieces", "signs", "turned", "turned_back"]

_LEAST = 64  # of a piece: a scale costs as much as 32 signs


def pieces(size: int) -> list[int]:
    """Return the lengths that a vector of `size` numbers is cut into: powers of two.

    >>> pieces(1000), pieces(64), pieces(3)
    ([512, 256, 128, 64, 64], [64], [4])
    """
    found = []
    while size > 0:
        length = 1 << (size.bit_length() - 1)
        if length < _LEAST and length < size:
            length *= 2
        found.append(length)
        size -= length
    return found


def signs(seed: Code, size: int) -> Tensor:
    """Return the signs that a seed draws, for all pieces of a vector: float64."""
    drawn = stream_of(seed).bytes(-(-size // 8))
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8), count=size)
    return torch.from_numpy(1.0 - 2.0 * bits)


def turned(vector: Tensor, seed: Code) -> list[Tensor]:
    """Return the pieces of a vector, each turned: float64."""
    lengths = pieces(len(vector))
    whole = torch.zeros(sum(lengths), dtype=torch.float64, device=vector.device)
    whole[: len(vector)] = vector
    whole *= signs(seed, len(whole)).to(whole.device)
    return [hadamard(piece.clone()) for piece in torch.split(whole, lengths)]


def turned_back(rows: Sequence[Tensor], scales: Tensor, seed: Code, size: int) -> Tensor:
    """Undo `turned`, of pieces times scales [pieces], to float32."""
    pairs = zip(rows, scales.double(), strict=True)
    whole = torch.cat([hadamard(row * scale) for row, scale in pairs])
    return (whole * signs(seed, len(whole)).to(whole.device))[:size].float()
