"""PowerSGD: each weight matrix of an update as two thin factors, by a step of power iteration.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
optimization", NeurIPS 2019, Algorithm 1: P <- M Q, P <- orthogonalize(P), Q <- M' P, and M is sent
as P Q'. Q is kept for the next round (warm start, section 4.2), and what is lost is fed back
(Algorithm 2). Their workers average P before Q is computed, a second exchange in each step; here
each client factorizes its own update, and one message has both.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from fedsim.coding import Code, Contexts, Memos, Received, Shapes, Shared
from fedsim.core import ClientContext, Memo
from fedsim.transforms._bits import Reader, floats
from fedsim.transforms._tensors import parts_of

__all__ = ["PowerSgd"]


@dataclass(frozen=True, slots=True)
class PowerSgd:
    """Send each matrix as factors of `rank` columns; vectors, and small matrices, as they are.

    Tensors of more axes are matrices of their first axis by the others. `iterations` of the power
    method in each round; with the warm start one is enough. `feedback`: "ef" keeps what is lost, a
    vector of the model's size on each client; "none" forgets it.
    """

    rank: Annotated[int, Ge(1)] = 2
    iterations: Annotated[int, Ge(1)] = 1
    feedback: Literal["none", "ef"] = "ef"

    kind: ClassVar[Literal["coded"]] = "coded"

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return P and Q of each matrix, and what is no matrix; keep each Q."""
        pieces, kept = [], {}
        for i, (part, shape) in enumerate(
            zip(parts_of(vector, shared.shapes), shared.shapes, strict=True)
        ):
            rank = self._rank(shape)
            if not rank:
                pieces.append(floats(part.numpy()))
                continue
            matrix = part.view(shape[0], -1)
            name = f"q/{i}"
            right = memo[name] if name in memo else _first(matrix.shape[1], rank, i, shared)
            left, right = self._factors(matrix, right)
            pieces += [floats(left.numpy()), floats(right.numpy())]
            kept[name] = right
        return np.concatenate(pieces), kept

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return P Q' of each matrix."""
        reader, parts = Reader(code), []
        for shape in shared.shapes:
            size, rank = math.prod(shape), self._rank(shape)
            if not rank:
                parts.append(torch.from_numpy(reader.floats(size)))
                continue
            rows, columns = shape[0], size // shape[0]
            left = torch.from_numpy(reader.floats(rows * rank)).view(rows, rank)
            right = torch.from_numpy(reader.floats(columns * rank)).view(columns, rank)
            parts.append((left @ right.t()).flatten())
        reader.end()
        return torch.cat(parts)

    def received(
        self, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
    ) -> Received:
        """Return what codes of updates [clients, model] stand for, and each client's Q."""
        found: list[Tensor] = []
        kept: list[Memo] = [{} for _ in memos]
        for i, (part, shape) in enumerate(
            zip(parts_of(vectors, shared.shapes), shared.shapes, strict=True)
        ):
            rank, name = self._rank(shape), f"q/{i}"
            if not rank:
                found.append(part)
                continue
            matrices = part.view(len(part), shape[0], -1)
            first = _first(matrices.shape[2], rank, i, shared)
            right = torch.stack([memo.get(name, first) for memo in memos]).to(part.device)
            left, right = self._factors(matrices, right)
            found.append((left @ right.mT).flatten(1))
            for memo, own in zip(kept, right.cpu(), strict=True):
                memo[name] = own.clone()
        return Received(torch.cat(found, dim=1), memos=kept)

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code."""
        sizes = [
            self._rank(shape) * (shape[0] + math.prod(shape[1:])) if self._rank(shape) else None
            for shape in shapes
        ]
        whole = [math.prod(shape) for shape in shapes]
        return 4 * sum(w if s is None else s for s, w in zip(sizes, whole, strict=True))

    def _factors(self, matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return P and the next Q of a matrix, or of each of several."""
        for _ in range(self.iterations):
            left = torch.linalg.qr(matrix @ right).Q
            right = matrix.mT @ left
        return left, right

    def _rank(self, shape: tuple[int, ...]) -> int:
        """Return the rank that a tensor is sent in; 0 where factors would not be smaller."""
        if len(shape) < 2 or not math.prod(shape):
            return 0
        rows, columns = shape[0], math.prod(shape[1:])
        rank = min(self.rank, rows, columns)
        return rank if rank * (rows + columns) < rows * columns else 0


def _first(columns: int, rank: int, place: int, shared: Shared) -> Tensor:
    """Return a Q to begin with: the same on all clients, normal numbers as in the paper."""
    stream = shared.rng(f"powersgd/{place}")
    return torch.from_numpy(stream.standard_normal((columns, rank)).astype(np.float32))
