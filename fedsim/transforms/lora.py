"""LoRA: clients train a thin factor beside each weight matrix, and send nothing else.

Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022, equation 3: h = W x +
(alpha / r) B A x, with W frozen. A is drawn by all alike and stays as it is, as in FFA-LoRA (Sun et
al., "Improving LoRA in privacy-preserving federated learning", ICLR 2024, section 4): then the mean
of the clients' B A is the mean of their B times A, exactly, which it is not where both are trained
(their section 3). So updates add up as B's: under masks, and with noise on the sum. After each
round B A is merged into W: the model that is kept is the plain one.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from fedsim import rng
from fedsim.coding import Shared
from fedsim.models import layout, named
from fedsim.transforms import _adapted

__all__ = ["LoRA", "LowRank"]


@dataclass(frozen=True, slots=True)
class LoRA:
    """Train and send B of `rank` columns for each matrix, W + (`alpha` / `rank`) B A in its place.

    A has orthonormal rows, so that with SGD, and `alpha` unset (the rank), a step is that of W's
    gradient projected on them. `subspace`: "each-round" draws A anew, so that rounds add up to any
    rank; "fixed" has one A for the run, as FFA-LoRA has, and then all rounds together change W by
    `rank` at most. `others`: what is no matrix, or too small for factors to be smaller, is "frozen"
    as in the paper, or "trained" and sent as it is.
    """

    rank: Annotated[int, Ge(1)] = 4
    alpha: Annotated[float, Gt(0)] | None = None
    subspace: Literal["each-round", "fixed"] = "each-round"
    others: Literal["frozen", "trained"] = "frozen"

    kind: ClassVar[Literal["linear"]] = "linear"

    def adapt(self, module: nn.Module) -> nn.Module:
        """Return the module that clients train; raises `ValueError` where nothing could be."""
        names = self._names(module)
        if not names:
            raise ValueError(f"it has no matrix that {self.rank} columns are smaller than")
        scale = (self.alpha or self.rank) / self.rank
        found = _adapted.adapted(module, names, lambda weight: LowRank(weight, self.rank, scale))
        own = {_adapted.part_name(name, "b") for name in names}
        for name, parameter in found.named_parameters():
            is_weight = name.endswith(".original")
            is_frozen = is_weight or self.others == "frozen"
            if name not in own and is_frozen:
                parameter.requires_grad_(False)
        return found

    def start(self, shared: Shared) -> Tensor:
        """Return the numbers of that module: the model, the round's A, and B = 0."""
        assert shared.adapted is not None
        known = {name: part.cpu() for name, part in self._model(shared).items()}
        drawn = {_adapted.part_name(n, "a"): a for n, a in self._factors(shared).items()}
        return _adapted.start(shared.adapted, known | drawn)

    def width(self, shared: Shared) -> int:
        """Return how many numbers all B have, and what is sent as it is."""
        assert shared.module is not None
        shapes = dict(layout(shared.module))
        names = self._names(shared.module)
        others = sum(math.prod(shapes[name]) for name in self._others(shared.module))
        return others + sum(shapes[name][0] * self._rank(shapes[name]) for name in names)

    def reduce(self, vectors: Tensor, shared: Shared) -> Tensor:
        """Return all B, and what is sent as it is, of how modules changed: [..., module]."""
        assert shared.module is not None
        assert shared.adapted is not None
        parts = _adapted.named_parts(shared.adapted, vectors)
        own = [parts[_adapted.part_name(name, "b")] for name in self._names(shared.module)]
        return torch.cat([*own, *(parts[name] for name in self._others(shared.module))], dim=-1)

    def expand(self, numbers: Tensor, shared: Shared) -> Tensor:
        """Return B A for each matrix, of one client or of a sum of them."""
        assert shared.module is not None
        shapes, names = dict(layout(shared.module)), self._names(shared.module)
        others, factors = self._others(shared.module), self._factors(shared)
        sizes = [shapes[name][0] * self._rank(shapes[name]) for name in names]
        sizes += [math.prod(shapes[name]) for name in others]
        parts = dict(zip([*names, *others], torch.split(numbers, sizes), strict=True))
        scale = (self.alpha or self.rank) / self.rank
        found = []
        for name, shape in shapes.items():
            if name in factors:
                left = parts[name].view(shape[0], -1)
                found.append(scale * (left @ factors[name].to(left)).flatten())
            else:
                found.append(parts.get(name, numbers.new_zeros(math.prod(shape))))
        return torch.cat(found)

    def _names(self, module: nn.Module) -> list[str]:
        shapes = dict(layout(module))
        return [name for name in _adapted.matrices(module) if self._rank(shapes[name])]

    def _others(self, module: nn.Module) -> list[str]:
        """Return what is sent as it is."""
        if self.others == "frozen":
            return []
        return [name for name, _ in layout(module) if name not in set(self._names(module))]

    def _rank(self, shape: tuple[int, ...]) -> int:
        """Return the rank of a matrix's factors, 0 where B would not be smaller than it."""
        return self.rank if self.rank < math.prod(shape[1:]) else 0

    def _model(self, shared: Shared) -> dict[str, Tensor]:
        assert shared.model is not None
        assert shared.module is not None
        return named(shared.module, shared.model)

    def _factors(self, shared: Shared) -> dict[str, Tensor]:
        """Return A of each matrix: orthonormal rows in a random direction."""
        assert shared.module is not None
        shapes = dict(layout(shared.module))
        round = shared.round if self.subspace == "each-round" else 0
        stream = rng.stream(shared.seed, "lora", round=round)
        found = {}
        for name in self._names(shared.module):
            columns = math.prod(shapes[name][1:])
            normal = stream.standard_normal((columns, self.rank))
            found[name] = torch.linalg.qr(torch.from_numpy(normal)).Q.t().float().contiguous()
        return found


class LowRank(nn.Module):
    """What makes W + scale x B A of a weight W: its axes after the first are one."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self._scale = scale
        columns = weight[0].numel()
        self.a = nn.Parameter(weight.new_zeros(rank, columns), requires_grad=False)
        self.b = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with what was learned."""
        return weight + self._scale * (self.b @ self.a).view(weight.shape)
