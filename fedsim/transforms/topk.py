"""Top-k sparsification: only the largest coordinates of an update are sent.

Aji and Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017, section 3:
what is not sent is kept and added to the next update. C(x) errs by at most (1 - k/d) |x|^2 (Stich
et al., "Sparsified SGD with memory", NeurIPS 2018, equation 5), and is biased: without the memory
what is small in every client is never sent.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader, floats, pack, packed_bytes
from fedsim.transforms._tensors import part_of

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True)
class TopK:
    """Send the `fraction` of coordinates with the largest absolute values, rounded up; zero else.

    On the wire: a float32 for each coordinate sent, and where they are: the bits of each place, or
    one bit for every coordinate where that is shorter. Of equal values it is not said which are
    sent. `feedback`: "ef" keeps what is not sent, a vector of the model's size on each client;
    "none" forgets it, for clients that are rarely asked twice.
    """

    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    feedback: Literal["none", "ef"] = "ef"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the values of the largest coordinates, and their places."""
        kept, size = part_of(self.fraction, len(vector)), len(vector)
        places = np.sort(vector.abs().topk(kept, sorted=False).indices.numpy())
        if _is_map(kept, size):
            marks = np.zeros(size, dtype=np.uint8)
            marks[places] = 1
            where = pack(marks, 1)
        else:
            where = pack(places, _place_bits(size))
        return np.concatenate([floats(vector.numpy()[places]), where]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return the update that is zero elsewhere."""
        size = shared.dimension
        kept, reader = part_of(self.fraction, size), Reader(code)
        values = reader.floats(kept)
        if _is_map(kept, size):
            places = np.flatnonzero(reader.packed(1, size))
        else:
            places = reader.packed(_place_bits(size), kept)
        reader.end()
        if len(places) != kept or (np.diff(places) <= 0).any():
            raise ValueError("places are not ascending")
        vector = torch.zeros(size)
        vector[torch.from_numpy(places)] = torch.from_numpy(values)
        return vector

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        kept = part_of(self.fraction, shared.dimension)
        places = vectors.abs().topk(kept, dim=1, sorted=False).indices
        values = vectors.gather(1, places)
        return Received(torch.zeros_like(vectors).scatter_(1, places, values))

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        size = size_of(shapes)
        kept = part_of(self.fraction, size)
        is_map = _is_map(kept, size)
        where = packed_bytes(1, size) if is_map else packed_bytes(_place_bits(size), kept)
        return 4 * kept + where


def _place_bits(size: int) -> int:
    return max(1, (size - 1).bit_length())


def _is_map(kept: int, size: int) -> bool:
    """Say whether a bit for every coordinate is shorter than the places of those sent."""
    return size < kept * _place_bits(size)
