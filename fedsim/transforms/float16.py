"""Updates in half precision: IEEE 754 binary16, 10 bits of mantissa, to the nearest.

Micikevicius et al., "Mixed precision training", ICLR 2018. Relative error at most 2^-11 between
6.1e-5 and 65504; what is beyond becomes infinite, and its client is lost for the round.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader

__all__ = ["Float16"]


@dataclass(frozen=True, slots=True)
class Float16:
    """Send each number in two bytes."""

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the numbers as binary16."""
        return vector.half().numpy().astype("<f2", copy=False).view(np.uint8), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return the numbers as float32."""
        reader = Reader(code)
        halves = np.frombuffer(reader.take(2 * shared.dimension).tobytes(), dtype="<f2")
        reader.end()
        return torch.from_numpy(halves.astype(np.float32))

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        return Received(vectors.half().float())

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        return 2 * size_of(shapes)
