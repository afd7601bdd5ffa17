"""Sparse training: small weights are pruned, and the others alone trained, sent and averaged.

Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
compression", 2017, equation 1: sparsity grows over the first rounds as s_t = s_f (1 - (1 -
t/n)^3), and in each tensor the weights of least magnitude go; what is gone stays so. Which they are
follows from the global model, as in PruneFL (Jiang et al., "Model pruning enables efficient
federated learning on edge devices", 2019): so all clients have one mask, nobody sends it, and the
mean of what is left is that of all clients. It goes with secure sums, and with noise on the sum,
over fewer numbers.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from fedsim.coding import Shared
from fedsim.models import layout, named
from fedsim.transforms import _adapted

__all__ = ["Masked", "Pruning"]


@dataclass(frozen=True, slots=True)
class Pruning:
    """Prune `sparsity` of each matrix (filters and embeddings too) over the first `rounds` rounds.

    Vectors, as biases are, stay whole. The model that is kept has zeros where it was pruned.
    """

    sparsity: Annotated[float, Gt(0), Lt(1)] = 0.9
    rounds: Annotated[int, Ge(1)] = 10

    kind: ClassVar[Literal["linear"]] = "linear"

    def adapt(self, module: nn.Module) -> nn.Module:
        """Return the module that clients train: its weights are multiplied by masks."""
        names = _adapted.matrices(module)
        if not names:
            raise ValueError("it has no matrix to prune")
        return _adapted.adapted(module, names, Masked)

    def start(self, shared: Shared) -> Tensor:
        """Return the numbers of that module: the model, and the round's masks."""
        assert shared.adapted is not None
        assert shared.module is not None
        assert shared.model is not None
        mask = named(shared.module, self._mask(shared).float())
        masks = {_adapted.part_name(n, "mask"): mask[n] for n in _adapted.matrices(shared.module)}
        known = {name: part.cpu() for name, part in named(shared.module, shared.model).items()}
        return _adapted.start(shared.adapted, known | masks)

    def width(self, shared: Shared) -> int:
        """Return how many numbers are left."""
        assert shared.module is not None
        pruned = set(_adapted.matrices(shared.module))
        sizes = {name: math.prod(shape) for name, shape in layout(shared.module)}
        return sum(self._kept(n, shared.round) if k in pruned else n for k, n in sizes.items())

    def reduce(self, vectors: Tensor, shared: Shared) -> Tensor:
        """Return how what is left changed, of changes [..., module]."""
        assert shared.module is not None
        assert shared.adapted is not None
        parts = _adapted.named_parts(shared.adapted, vectors)
        whole = torch.cat([parts[name] for name, _ in layout(shared.module)], dim=-1)
        return whole[..., self._mask(shared)]

    def expand(self, numbers: Tensor, shared: Shared) -> Tensor:
        """Return the update, or the sum, that is zero where the model is pruned."""
        mask = self._mask(shared)
        vector = numbers.new_zeros(len(mask))
        vector[mask] = numbers
        return vector

    def settle(self, model: Tensor, shared: Shared) -> Tensor:
        """Return the server's model without what is pruned."""
        return torch.where(self._mask(shared), model, 0.0)

    def _mask(self, shared: Shared) -> Tensor:
        """Return what is left of the model of a round; of equal magnitudes the first ones."""
        assert shared.module is not None
        assert shared.model is not None
        model = shared.model.cpu()
        mask = torch.ones(len(model), dtype=torch.bool)
        own = named(shared.module, mask)
        for name, part in named(shared.module, model).items():
            if name in _adapted.matrices(shared.module):
                order = part.flatten().abs().argsort(descending=True, stable=True)
                own[name].view(-1)[order[self._kept(len(order), shared.round) :]] = False
        return mask

    def _kept(self, size: int, round: int) -> int:
        """Return how many of a tensor's weights are left in a round (equation 1)."""
        grown = 1 - (1 - min(round / self.rounds, 1.0)) ** 3
        return max(1, math.ceil((1 - self.sparsity * grown) * size))


class Masked(nn.Module):
    """What multiplies a weight by its mask: what is pruned has no part in the output."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones_like(weight), requires_grad=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight without what is pruned."""
        return weight * self.mask
