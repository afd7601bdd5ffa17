"""Updates in bfloat16: the range of float32 with 7 bits of mantissa, to the nearest.

Kalamkar et al., "A study of BFLOAT16 for deep learning training", 2019. Relative error at most 2^-8
wherever float32 has normal numbers.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader

__all__ = ["BFloat16"]


@dataclass(frozen=True, slots=True)
class BFloat16:
    """Send each number in two bytes: the upper half of its float32, rounded."""

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the numbers as bfloat16."""
        upper = vector.bfloat16().view(torch.int16).numpy()
        return upper.astype("<i2", copy=False).view(np.uint8), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return the numbers as float32."""
        reader = Reader(code)
        upper = np.frombuffer(reader.take(2 * shared.dimension).tobytes(), dtype="<i2")
        reader.end()
        return torch.from_numpy(upper.astype(np.int16)).view(torch.bfloat16).float()

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        return Received(vectors.bfloat16().float())

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        return 2 * size_of(shapes)
