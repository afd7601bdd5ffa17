"""EF-signSGD: signs times the mean size of a tensor, and what that loses is sent the next time.

Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML
2019, Algorithm 1: Delta = (|p|_1 / d) sign(p), e = p - Delta, for each tensor by itself, as in
their experiments. |C(p) - p|^2 = (1 - |p|_1^2 / (d |p|_2^2)) |p|_2^2 (Lemma 8).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared, size_of
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader, floats, packed_bytes
from fedsim.transforms._tensors import of_parts, parts_of, sizes_of
from fedsim.transforms.signsgd import signs_from, signs_of

__all__ = ["EfSignSgd"]


@dataclass(frozen=True, slots=True)
class EfSignSgd:
    """Send one bit for each number and a float32 for each tensor.

    `feedback`: "ef" keeps what is lost, a vector of the model's size on each client, and is the
    method; "none" forgets it, to compare: it need not converge.
    """

    feedback: Literal["none", "ef"] = "ef"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the mean absolute value of each tensor, and the signs of all numbers."""
        parts = parts_of(vector, shared.shapes)
        scales = [float(part.double().abs().mean()) if part.numel() else 0.0 for part in parts]
        return np.concatenate([floats(np.array(scales)), signs_of(vector)]), {}

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return signs times scales."""
        reader, sizes = Reader(code), sizes_of(shared.shapes)
        scales = torch.from_numpy(reader.floats(len(sizes)))
        signs = signs_from(reader, shared.dimension)
        reader.end()
        return signs * scales.repeat_interleave(torch.tensor(sizes))

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for."""
        parts = parts_of(vectors, shared.shapes)
        scales = [part.double().abs().mean(dim=1, keepdim=True).float() for part in parts]
        signs = torch.where(vectors < 0, -1.0, 1.0)
        return Received(signs * of_parts(scales, shared.shapes).nan_to_num())  # of no numbers

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        return 4 * len(shapes) + packed_bytes(1, size_of(shapes))
