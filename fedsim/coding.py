"""How updates travel in fewer bytes: what coders and reductions are, and who keeps what was lost.

A *coder* (`kind = "coded"`) makes a short code of one update, and the server an update of the code
before it adds it to others. A *reduction* (`kind = "linear"`) makes fewer numbers of it by a map
that all clients of a round share; the server adds those numbers up, under masks or not, and undoes
the map on the sum. A part that is neither leaves updates whole (`"dense"`).

Where a code loses more than chance gives back, the client keeps what was lost and adds it to its
next update: error feedback, Karimireddy et al., "Error feedback fixes SignSGD and other gradient
compression schemes", ICML 2019, Algorithm 2: p = g + e, send C(p), e = p - C(p).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim import registry, rng
from fedsim.core import ClientContext, Memo
from fedsim.exact import InvalidUpdateError

__all__ = [
    "Code",
    "Coded",
    "Coder",
    "Contexts",
    "Memos",
    "Received",
    "Reduction",
    "Shapes",
    "Shared",
    "apart",
    "coded",
    "coded_together",
    "decoder",
    "has_feedback",
    "joined",
    "kind_of",
    "reduced",
    "reduced_together",
    "size_of",
    "told",
]

#: Bytes as they travel: uint8, one-dimensional.
Code = NDArray[np.uint8]
#: The shapes of a model's tensors, in the order of its flat vector.
Shapes = tuple[tuple[int, ...], ...]
#: What several clients have, in one order.
Memos = Sequence[Memo]
Contexts = Sequence[ClientContext]

_PREFIX = "transform/"  # of what a transform keeps, in a client's memo
_RESIDUAL = "residual"


@dataclass(frozen=True, slots=True)
class Shared:
    """What everybody in a round knows without being sent it again.

    `model`: the global one, flat float32; `module`: one of its kind, to look at; `adapted`: what
    clients train in its place, if they do. They are there for reductions alone: who decodes may
    have none.
    """

    shapes: Shapes
    seed: int
    round: int
    model: Tensor | None = None
    module: nn.Module | None = None
    adapted: nn.Module | None = None

    @property
    def dimension(self) -> int:
        """Return how many numbers the model has."""
        return size_of(self.shapes)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of this round that all share."""
        return rng.stream(self.seed, purpose, round=self.round)


class Coder(Protocol):
    """A transform whose code the server has to decode update by update.

    One with `feedback = "ef"` among its fields gets what its last code lost added to the update.
    One that says what codes of many clients stand for without making them has `received(vectors,
    memos, shared, contexts)`: of updates [clients, model] on any device, the `Received`.
    """

    kind: ClassVar[Literal["coded"]]

    def encode(
        self, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext
    ) -> tuple[Code, Memo]:
        """Return the code of an update, flat float32, and what to remember until the next."""
        ...

    def decode(self, code: Code, shared: Shared) -> Tensor:
        """Return the update that a code stands for; raises anything for what is none."""
        ...

    def size_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of a code, or of a usual one where they depend on the numbers."""
        ...


class Reduction(Protocol):
    """A transform by which updates add up in fewer numbers.

    One that has clients train another module than the model has `adapt(module)`, which makes it,
    and `start(shared)`, its numbers at the start of a round; `reduce` then gets how those changed.
    One that changes what the server keeps has `settle(model, shared)`.
    """

    kind: ClassVar[Literal["linear"]]

    def width(self, shared: Shared) -> int:
        """Return how many numbers an update becomes."""
        ...

    def reduce(self, vectors: Tensor, shared: Shared) -> Tensor:
        """Return the numbers [..., width] of updates [..., model], on their device."""
        ...

    def expand(self, numbers: Tensor, shared: Shared) -> Tensor:
        """Return the update, or the sum of updates, that numbers stand for, of their type.

        One with error feedback takes numbers [..., width], of several clients.
        """
        ...


@dataclass(frozen=True, slots=True)
class Coded:
    """An update's code, what the server makes of it, and what the client keeps."""

    code: Code
    vector: Tensor
    memo: Memo


@dataclass(frozen=True, slots=True)
class Received:
    """What codes of several clients stand for: updates [clients, model], on their device.

    `sizes`: the bytes of each code; empty where they are `size_bytes`. `memos`: what each client
    keeps; empty for nothing.
    """

    vectors: Tensor
    sizes: Sequence[int] = ()
    memos: Memos = ()


def kind_of(part: Any) -> str:
    """Return whether a transform is "coded", "linear" or "dense"."""
    return str(getattr(part, "kind", "dense"))


def size_of(shapes: Shapes) -> int:
    """Return how many numbers tensors of these shapes have.

    >>> size_of(((3, 4), (4,), ()))
    17
    """
    return sum(math.prod(shape) for shape in shapes)


def coded(part: Coder, vector: Tensor, memo: Memo, shared: Shared, ctx: ClientContext) -> Coded:
    """Encode an update, with what the last code lost where the part has error feedback.

    Raises `InvalidUpdateError` for an update that is not finite: its residual would never be again.
    """
    whole = _with_residual(part, vector, memo)
    code, kept = part.encode(whole, memo, shared, ctx)
    decoded = part.decode(code, shared)
    if has_feedback(part):
        kept = {**kept, _RESIDUAL: whole - decoded}
    return Coded(code, decoded, kept)


def reduced(part: Reduction, vector: Tensor, memo: Memo, shared: Shared) -> tuple[Tensor, Memo]:
    """Return the numbers of an update, with error feedback where the part has it, and the memo.

    Raises what `coded` raises.
    """
    whole = _with_residual(part, vector, memo)
    numbers = part.reduce(whole, shared)
    if not has_feedback(part):
        return numbers, {}
    return numbers, {_RESIDUAL: whole - part.expand(numbers, shared)}


def coded_together(
    part: Any, vectors: Tensor, memos: Memos, shared: Shared, contexts: Contexts
) -> tuple[Received, Tensor]:
    """Do for clients [clients, model] what `coded` does for one, without making their codes.

    Returns too whose updates were finite; the others' are taken as zero. The part has `received`.
    """
    whole, is_finite = _with_residuals(part, vectors, memos)
    found: Received = part.received(whole, memos, shared, contexts)
    sizes = found.sizes or [part.size_bytes(shared.shapes)] * len(whole)
    kept = found.memos or [{}] * len(whole)
    if has_feedback(part):
        kept = _keeping(kept, whole - found.vectors)
    return Received(found.vectors, sizes, kept), is_finite


def reduced_together(
    part: Reduction, vectors: Tensor, memos: Memos, shared: Shared
) -> tuple[Received, Tensor]:
    """Do for clients [clients, model] what `reduced` does for one; say too whose were finite."""
    whole, is_finite = _with_residuals(part, vectors, memos)
    numbers = part.reduce(whole, shared)
    kept: list[Memo] = [{}] * len(whole)
    if has_feedback(part):
        kept = _keeping(kept, whole - part.expand(numbers, shared))
    return Received(numbers, memos=kept), is_finite


def _keeping(memos: Memos, lost: Tensor) -> list[Memo]:
    rows = lost.cpu()  # a copy of each: one client's memory must not hold all the others'
    return [{**memo, _RESIDUAL: row.clone()} for memo, row in zip(memos, rows, strict=True)]


def _with_residuals(part: Any, vectors: Tensor, memos: Memos) -> tuple[Tensor, Tensor]:
    whole = vectors
    if has_feedback(part):
        whole = vectors.clone()
        for row, memo in zip(whole, memos, strict=True):
            if _RESIDUAL in memo:
                row += memo[_RESIDUAL].to(row.device)
    is_finite = whole.isfinite().all(dim=1)
    return torch.where(is_finite.unsqueeze(1), whole, 0.0), is_finite


def has_feedback(part: Any) -> bool:
    """Say whether clients keep what their codes lose, and add it to their next updates."""
    return getattr(part, "feedback", "none") == "ef"


def _with_residual(part: Any, vector: Tensor, memo: Memo) -> Tensor:
    whole, is_finite = _with_residuals(part, vector.unsqueeze(0), [memo])
    if not bool(is_finite):
        raise InvalidUpdateError("update holds NaN or infinity")
    return whole[0]


def apart(memo: Memo) -> tuple[Memo, Memo]:
    """Return a client's memo as what its local algorithm and what its transform remember."""
    own = {name: value for name, value in memo.items() if not name.startswith(_PREFIX)}
    kept = {n.removeprefix(_PREFIX): v for n, v in memo.items() if n.startswith(_PREFIX)}
    return own, kept


def joined(own: Memo, kept: Memo) -> Memo:
    """Undo `apart`."""
    return {**own, **{_PREFIX + name: value for name, value in kept.items()}}


def told(part: Any, shapes: Shapes, seed: int) -> str:
    """Return what whoever decodes has to know of a coder, as text."""
    name = registry.name_of("transforms", part)
    content = {"name": name, "fields": asdict(part), "shapes": shapes, "seed": seed}
    return json.dumps(content, sort_keys=True)


def decoder(text: str, round: int) -> Callable[[Code], Tensor]:
    """Return code -> update, as `told` says it.

    The function raises `InvalidUpdateError` for what is no code of such an update.
    """
    part, shapes, seed = _read(text)
    shared = Shared(shapes, seed, round)

    def decode(code: Code) -> Tensor:
        if code.dtype != np.uint8 or code.ndim != 1:
            raise InvalidUpdateError("the reply is no code of an update")
        try:
            vector: Tensor = part.decode(code, shared)
        except Exception as error:  # whatever a sender's bytes lead to
            reason = f"the code of the update cannot be read: {type(error).__name__}: {error}"
            raise InvalidUpdateError(reason) from error
        if vector.shape != (shared.dimension,) or vector.dtype != torch.float32:
            raise InvalidUpdateError(f"the code is of {tuple(vector.shape)} numbers")
        return vector

    return decode


@lru_cache(maxsize=4)
def _read(text: str) -> tuple[Any, Shapes, int]:
    content: Mapping[str, Any] = json.loads(text)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["fields"].items()}
    part = registry.load("transforms", content["name"])(**fields)
    return part, tuple(tuple(shape) for shape in content["shapes"]), int(content["seed"])
