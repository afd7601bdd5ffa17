"""EDEN: a few bits for each number of a vector that was turned at random, unbiased.

Vargaftik et al., "EDEN: communication-efficient and robust distributed mean estimation for
federated learning", ICML 2022, Algorithm 1: the turned vector times sqrt(d) / |x| is nearly normal;
each number goes to the nearest of the 2^b centroids of Lloyd and Max for N(0, 1), and the scale
S = |x|^2 / <R x, Q(R x)> makes it unbiased over uniform rotations (Theorem 2.1),
and nearly so over those of a Hadamard transform. With one bit it is DRIVE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import SEED_BYTES, Reader, floats, pack, packed_bytes, seed_of
from fedsim.transforms._rotation import pieces, turned, turned_back

__all__ = ["Eden", "centroids"]

_SWEEPS = 20_000


@dataclass(frozen=True, slots=True)
class Eden:
    """Send `bits` for each number, a seed of 8 bytes, and a float32 for each piece of 2^p."""

    bits: Annotated[int, Ge(1), Le(4)] = 2

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the seed of the turn, a scale for each piece, and centroids' numbers."""
        seed = seed_of(ctx, "eden")
        chosen, scales = self._chosen(turned(vector, seed))
        numbers = torch.cat(chosen).numpy()
        return np.concatenate([seed, floats(scales.numpy()), pack(numbers, self.bits)]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return scaled centroids, turned back."""
        reader, lengths = Reader(code), pieces(shared.dimension)
        seed = reader.take(SEED_BYTES)
        scales = torch.from_numpy(reader.floats(len(lengths)))
        places = torch.from_numpy(reader.packed(self.bits, sum(lengths)))
        reader.end()
        rows = torch.split(self._known(places.device)[places], lengths)
        return turned_back(rows, scales, seed, shared.dimension)

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        found, known = [], self._known(vectors.device)
        for vector, ctx in zip(vectors, contexts, strict=True):
            seed = seed_of(ctx, "eden")
            chosen, scales = self._chosen(turned(vector, seed))
            rows = [known[places] for places in chosen]
            found.append(turned_back(rows, scales.float(), seed, len(vector)))
        return Received(torch.stack(found))

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        lengths = pieces(size_of(shapes))
        return SEED_BYTES + 4 * len(lengths) + packed_bytes(self.bits, sum(lengths))

    def _chosen(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the nearest centroid of each number of turned pieces, and each piece's scale."""
        known = self._known(rows[0].device)
        edges = (known[1:] + known[:-1]) / 2
        chosen, scales = [], []
        for row in rows:
            norm = torch.linalg.vector_norm(row)
            unit = torch.where(norm > 0, math.sqrt(len(row)) / norm, 0.0)
            places = torch.bucketize(row * unit, edges)
            along = (row * known[places]).sum()
            scales.append(torch.where(norm > 0, norm**2 / along, 0.0))
            chosen.append(places)
        return chosen, torch.stack(scales)

    def _known(self, device: torch.device) -> Tensor:
        return torch.tensor(centroids(self.bits), dtype=torch.float64, device=device)


@lru_cache(maxsize=4)
def centroids(bits: int) -> tuple[float, ...]:
    """Return the 2^bits numbers that are nearest to a normal one in mean square, ascending.

    Each is the mean of N(0, 1) between the middles to its neighbours: Max, "Quantizing for minimum
    distortion", IRE Trans. Inf. Theory 6(1), 1960; found as Lloyd does, by repetition.

    >>> [round(c, 4) for c in centroids(2)]
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    half = 2 ** (bits - 1)
    points = np.linspace(0, 4, 2 * half + 1)[1::2]
    for _ in range(_SWEEPS):
        edges = np.concatenate([[0.0], (points[1:] + points[:-1]) / 2])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        above = np.array([math.erfc(edge / math.sqrt(2)) / 2 for edge in edges])
        mass, moment = above - np.append(above[1:], 0.0), density - np.append(density[1:], 0.0)
        found = moment / mass
        if np.abs(found - points).max() < 1e-13:
            break
        points = found
    return (*(-points[::-1]).tolist(), *points.tolist())
