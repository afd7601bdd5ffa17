"""QSGD: each number becomes a few levels of its bucket's norm, up or down by chance.

Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and encoding", NeurIPS
2017, equation 4: Q_s(v_i) = |v|_2 sgn(v_i) xi_i, with xi_i = l/s or (l+1)/s such that its mean is
|v_i| / |v|_2. Unbiased, and E |Q(v) - v|^2 <= min(n / s^2, sqrt(n) / s) |v|^2 (Lemma 3.1) for a
bucket of n numbers (section 4).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader, floats, omega, omega_lengths, pack, packed_bytes
from fedsim.transforms._buckets import bucketed, count, stochastic

__all__ = ["Qsgd"]


@dataclass(frozen=True, slots=True)
class Qsgd:
    """Send numbers in `bits` bits: a sign and one of s = 2^(bits - 1) - 1 levels above zero.

    `bucket` numbers share a norm, a float32. `coding`: "fixed" takes `bits` for each number;
    "elias" takes Elias's omega code of each level plus one (the paper's section 3.2), and a sign
    where it is not zero: shorter where most levels are small, which they are in large buckets.
    """

    bits: Annotated[int, Ge(2), Le(16)] = 4
    bucket: Annotated[int, Ge(1)] = 512
    coding: Literal["fixed", "elias"] = "fixed"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the norms of all buckets, then levels and signs."""
        norms, signed = self._rounded(vector, ctx)
        numbers = signed.numpy().astype(np.int64)
        levels, is_negative = np.abs(numbers), numbers < 0
        start = floats(norms.numpy())
        if self.coding == "fixed":
            whole = levels | is_negative.astype(np.int64) << (self.bits - 1)
            return np.concatenate([start, pack(whole, self.bits)]), {}
        signs = pack(is_negative[levels > 0].astype(np.int64), 1)
        return np.concatenate([start, omega(levels + 1), signs]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return norm x sign x level / s."""
        size, reader = shared.dimension, Reader(code)
        norms = torch.from_numpy(reader.floats(count(size, self.bucket)))
        if self.coding == "fixed":
            whole = reader.packed(self.bits, size)
            levels, is_negative = whole & self._levels, whole > self._levels
        else:
            levels, is_negative = reader.omega(size) - 1, np.zeros(size, dtype=bool)
            is_negative[levels > 0] = reader.packed(1, int((levels > 0).sum())) == 1
        reader.end()
        if (levels > self._levels).any():
            raise ValueError(f"a level above {self._levels}")
        signed = torch.from_numpy(np.where(is_negative, -levels, levels).astype(np.float32))
        return self._scaled(norms, signed)

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        rows, sizes = [], []
        for vector, ctx in zip(vectors, contexts, strict=True):
            norms, signed = self._rounded(vector, ctx)
            rows.append(self._scaled(norms, signed))
            sizes.append(self._bytes(norms, signed))
        return Received(torch.stack(rows), sizes)

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code of the fixed width; "elias" mostly has fewer."""
        size = size_of(shapes)
        return 4 * count(size, self.bucket) + packed_bytes(self.bits, size)

    @property
    def _levels(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    def _rounded(self, vector: Tensor, ctx: ClientContext) -> tuple[Tensor, Tensor]:
        """Return the norm of each bucket, and the level of each number with its sign, float32."""
        rows = bucketed(vector, self.bucket)
        norms = torch.linalg.vector_norm(rows, dim=1).float()
        signed = stochastic(rows, norms, self._levels, ctx.rng("qsgd"))
        return norms, signed.flatten()[: len(vector)].float()

    def _scaled(self, norms: Tensor, signed: Tensor) -> Tensor:
        return signed * (norms.repeat_interleave(self.bucket)[: len(signed)] / self._levels)

    def _bytes(self, norms: Tensor, signed: Tensor) -> int:
        """Return the bytes of a code of these numbers."""
        if self.coding == "fixed":
            return 4 * len(norms) + packed_bytes(self.bits, len(signed))
        levels = signed.abs().long()
        words = omega_lengths(self._levels + 1).to(levels.device)
        signs = packed_bytes(1, int((levels > 0).sum()))
        return 4 * len(norms) + packed_bytes(1, int(words[levels].sum())) + signs
