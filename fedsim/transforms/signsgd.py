"""signSGD with majority vote: clients send signs, the server steps where most of them point.

Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018, Algorithm
3, with updates in place of gradients: x <- x + lr sign(sum of sign(x_i)). The step is the
strategy's `lr`, whatever the updates' size; all clients have one vote. Only the sum of the signs is
needed, so a secure sum does, over few bits (`secure_sum.bits = 8`).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo, Sum
from fedsim.transforms._bits import Reader, pack, packed_bytes
from fedsim.transforms._tensors import of_parts, parts_of, sizes_of

__all__ = ["SignSgd"]


@dataclass(frozen=True, slots=True)
class SignSgd:
    """Send one bit for each number; the mean of a round is the majority's sign.

    Set `strategy.lr` to the step, 0.001 for a start. Zero counts as +1, but a tensor that did not
    move at all, as one that is not trained, has no vote: one more bit says so. Where the votes are
    even nothing moves.
    """

    kind: ClassVar[Literal["coded"]] = "coded"
    #: Signs may be added under masks, and each client counts once.
    adds: ClassVar[bool] = True

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return which tensors moved, and the signs of all numbers."""
        moved = np.array([bool(part.any()) for part in parts_of(vector, shared.shapes)])
        return np.concatenate([pack(moved.astype(np.int64), 1), signs_of(vector)]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return +1 and -1, and 0 in what did not move."""
        reader, sizes = Reader(code), sizes_of(shared.shapes)
        moved = torch.from_numpy(reader.packed(1, len(sizes))).float()
        signs = signs_from(reader, shared.dimension)
        reader.end()
        return signs * moved.repeat_interleave(torch.tensor(sizes))

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        moved = [part.any(dim=1, keepdim=True) for part in parts_of(vectors, shared.shapes)]
        return Received(of_parts(moved, shared.shapes) * torch.where(vectors < 0, -1.0, 1.0))

    def conclude(self, total: Sum) -> Sum:
        """Return the majority's sign as the mean of a sum of signs."""
        return replace(total, vector=total.vector.sign() * total.weight)

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        return packed_bytes(1, len(shapes)) + packed_bytes(1, size_of(shapes))


def signs_of(vector: Tensor) -> Code:
    """Return a bit for each number: whether it is negative."""
    return np.packbits((vector < 0).numpy(), bitorder="little")


def signs_from(reader: Reader, size: int) -> Tensor:
    """Read `size` signs: +1 and -1, float32."""
    bits = np.unpackbits(reader.take(packed_bytes(1, size)), count=size, bitorder="little")
    return torch.from_numpy(1 - 2 * bits.astype(np.float32))
