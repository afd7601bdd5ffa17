"""Updates in eight bits: each number on a grid of its bucket, rounded up or down by chance.

The quantizer of Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and
encoding", NeurIPS 2017, equation 4, with 127 levels of each sign and the largest absolute value of
a bucket in place of its L2 norm, as in that paper's experiments (section 5): unbiased, and no
number is off by a whole step, max |x| / 127.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader, floats
from fedsim.transforms._buckets import bucketed, count, stochastic

__all__ = ["Int8"]

_LEVELS = 127


@dataclass(frozen=True, slots=True)
class Int8:
    """Send each number in one byte, and a float32 for each `bucket` of numbers."""

    bucket: Annotated[int, Ge(1)] = 1024

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the largest absolute value of each bucket, and levels from -127 to 127."""
        scales, levels = self._rounded(vector, ctx)
        return np.concatenate([floats(scales.numpy()), levels.numpy().view(np.uint8)]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return levels times steps."""
        size, reader = shared.dimension, Reader(code)
        scales = torch.from_numpy(reader.floats(count(size, self.bucket)))
        levels = torch.from_numpy(reader.take(size).copy()).view(torch.int8)
        reader.end()
        return self._scaled(scales, levels)

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        pairs = zip(vectors, contexts, strict=True)
        return Received(torch.stack([self._scaled(*self._rounded(row, ctx)) for row, ctx in pairs]))

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        size = size_of(shapes)
        return size + 4 * count(size, self.bucket)

    def _rounded(self, vector: Tensor, ctx: ClientContext) -> tuple[Tensor, Tensor]:
        """Return the scale of each bucket, float32, and the level of each number, int8."""
        rows = bucketed(vector, self.bucket)
        scales = rows.abs().amax(dim=1).float()
        levels = stochastic(rows, scales, _LEVELS, ctx.rng("int8")).to(torch.int8)
        return scales, levels.flatten()[: len(vector)]

    def _scaled(self, scales: Tensor, levels: Tensor) -> Tensor:
        return levels * (scales.repeat_interleave(self.bucket)[: len(levels)] / _LEVELS)
