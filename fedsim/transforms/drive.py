"""DRIVE: one bit for each number of a vector that was turned at random, and a scale.

Vargaftik et al., "DRIVE: one-bit distributed mean estimation", NeurIPS 2021, Algorithm 1, with the
randomized Hadamard transform of its section 6 in place of a uniform rotation R: S sign(R x) is sent
and turned back. With S = |R x|_1 / d the squared error is least, and over uniform rotations it is
(1 - 2/pi)(1 - 1/d) |x|^2 (Theorem 2); with S = |x|^2 / |R x|_1 it is unbiased over uniform
rotations (Theorem 3), and nearly so here, with about (pi/2 - 1) |x|^2. Over the transform's signs
alone the first is at most |x|^2 / 2 whatever x is, by Khintchine's inequality.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import SEED_BYTES, Reader, floats, packed_bytes, seed_of
from fedsim.transforms._rotation import pieces, turned, turned_back
from fedsim.transforms.signsgd import signs_from, signs_of

__all__ = ["Drive"]


@dataclass(frozen=True, slots=True)
class Drive:
    """Send a bit for each number, a seed of 8 bytes, and a float32 for each piece of 2^p numbers.

    `scale`: "unbiased", whose errors cancel over many clients, or "nearest", with the least error
    of each. `feedback` = "ef" keeps what is lost for the next time, and goes with "nearest".
    """

    scale: Literal["unbiased", "nearest"] = "unbiased"
    feedback: Literal["none", "ef"] = "none"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the seed of the turn, a scale for each piece, and signs."""
        seed = seed_of(ctx, "drive")
        rows = turned(vector, seed)
        scales = torch.stack([self._scale(row) for row in rows])
        return np.concatenate([seed, floats(scales.numpy()), signs_of(torch.cat(rows))]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return scaled signs, turned back."""
        reader, lengths = Reader(code), pieces(shared.dimension)
        seed = reader.take(SEED_BYTES)
        scales = torch.from_numpy(reader.floats(len(lengths)))
        rows = torch.split(signs_from(reader, sum(lengths)).double(), lengths)
        reader.end()
        return turned_back(rows, scales, seed, shared.dimension)

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        found = []
        for vector, ctx in zip(vectors, contexts, strict=True):
            seed = seed_of(ctx, "drive")
            rows = turned(vector, seed)
            scales = torch.stack([self._scale(row) for row in rows]).float()
            own = [torch.where(row < 0, -1.0, 1.0).double() for row in rows]
            found.append(turned_back(own, scales, seed, len(vector)))
        return Received(torch.stack(found))

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        lengths = pieces(size_of(shapes))
        return SEED_BYTES + 4 * len(lengths) + packed_bytes(1, sum(lengths))

    def _scale(self, row: Tensor) -> Tensor:
        size = row.abs().sum()
        if self.scale == "nearest":
            return size / len(row)
        return torch.where(size > 0, row.square().sum() / size, 0.0)
