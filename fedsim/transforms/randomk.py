"""Random-k sparsification: some coordinates of an update, drawn by chance, are sent.

Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, Definition 2.2 (rand_k);
times d/k it is unbiased and E |C(x) - x|^2 = (d/k - 1) |x|^2 (Wangni et al., "Gradient
sparsification for communication-efficient distributed optimization", NeurIPS 2018). Each client
draws its own, and sends the seed of its draw: the mean of many clients misses little.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import SEED_BYTES, Reader, floats, seed_of, stream_of
from fedsim.transforms._tensors import part_of

__all__ = ["RandomK", "drawn"]


@dataclass(frozen=True, slots=True)
class RandomK:
    """Send a random `fraction` of the coordinates, rounded up, times d/k: unbiased.

    On the wire: the 8 bytes of a seed, and a float32 for each coordinate. With `feedback` = "ef"
    they are taken as they are, and the rest is kept for the next time.
    """

    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    feedback: Literal["none", "ef"] = "none"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return a seed and the values at the places that it draws."""
        seed = seed_of(ctx, "randomk")
        places = drawn(seed, len(vector), part_of(self.fraction, len(vector)))
        return np.concatenate([seed, floats(vector.numpy()[places])]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return the update that is zero elsewhere."""
        size, reader = shared.dimension, Reader(code)
        kept = part_of(self.fraction, size)
        places = drawn(reader.take(SEED_BYTES), size, kept)
        values = torch.from_numpy(reader.floats(kept))
        reader.end()
        vector = torch.zeros(size)
        vector[torch.from_numpy(places)] = values * self._scale(size)
        return vector

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        size = shared.dimension
        kept, seeds = part_of(self.fraction, size), [seed_of(ctx, "randomk") for ctx in contexts]
        places = torch.from_numpy(np.stack([drawn(seed, size, kept) for seed in seeds]))
        places = places.to(vectors.device)
        values = vectors.gather(1, places) * self._scale(size)
        return Received(torch.zeros_like(vectors).scatter_(1, places, values))

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        return SEED_BYTES + 4 * part_of(self.fraction, size_of(shapes))

    def _scale(self, size: int) -> float:
        return 1.0 if self.feedback == "ef" else size / part_of(self.fraction, size)


def drawn(seed: Code, dimension: int, count: int) -> np.ndarray:
    """Draw `count` different coordinates of `dimension`, ascending: int64."""
    return np.sort(stream_of(seed).choice(dimension, count, replace=False, shuffle=False))
