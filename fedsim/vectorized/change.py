"""How the models of a block's clients changed: norms, bounds and weighted sums, on the stack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsim.core import Transform
from fedsim.models import layout
from fedsim.transforms.clip import Clip
from fedsim.transforms.unchanged import Unchanged

__all__ = [
    "Change",
    "Changes",
    "encoded",
    "flat_like",
    "in_fewer",
    "largest_of",
    "of_rows",
    "take_rows",
]


class Changes(Protocol):
    """How clients' models changed, whatever form it is kept in."""

    def largest(self) -> Tensor:
        """Bound each client's largest absolute coordinate from above; NaN stays NaN."""
        ...

    def norms(self) -> Tensor:
        """Return the L2 norm of each client's whole update: [clients]."""
        ...

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the sum of weight x update, flat float64; of weight 0 not even NaN enters."""
        ...

    def vectors(self) -> Tensor:
        """Return every client's update, on its device: float32 [clients, model]."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """Local minus global, `stacked[p]` [clients, ...] for every parameter that is not frozen."""

    module: nn.Module
    stacked: list[Tensor]

    def largest(self) -> Tensor:
        """Bound each client's largest absolute coordinate from above; NaN stays NaN."""
        return torch.stack([largest_of(p) for p in self.stacked]).amax(dim=0)

    def norms(self) -> Tensor:
        """Return the L2 norm of each client's whole update: [clients]."""
        parts = [torch.linalg.vector_norm(p.reshape(len(p), -1), dim=1) for p in self.stacked]
        squares: Tensor = torch.stack(parts).square().sum(dim=0)
        return squares.sqrt()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return the sum of weight x update, flat float64; of weight 0 not even NaN enters."""
        chosen = weights.nonzero().flatten()
        own = weights[chosen].to(self.stacked[0])
        whole = len(chosen) == len(weights)
        rows = [p if whole else p[chosen] for p in self.stacked]
        sums = [torch.mv(p.reshape(len(p), -1).t(), own) for p in rows]
        return flat_like(self.module, sums).double().cpu()

    def vectors(self) -> Tensor:
        """Return every client's update, on its device: float32 [clients, model]."""
        clients = range(len(self.stacked[0]))
        rows = [flat_like(self.module, [p[i].flatten() for p in self.stacked]) for i in clients]
        return torch.stack(rows).float()


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Changes times a factor for each client: see `Change`."""

    inner: Changes
    factors: Tensor

    def largest(self) -> Tensor:
        return self.inner.largest() * self.factors

    def norms(self) -> Tensor:
        return self.inner.norms() * self.factors

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.inner.weighted_sum(torch.where(weights != 0, weights * self.factors, 0.0))

    def vectors(self) -> Tensor:
        return self.inner.vectors() * self.factors.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Changes as whole vectors [clients, model]: see `Change`."""

    rows: Tensor

    def largest(self) -> Tensor:
        return largest_of(self.rows)

    def norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.rows, dim=1)
        return norms

    def weighted_sum(self, weights: Tensor) -> Tensor:
        chosen = weights.nonzero().flatten()
        return torch.mv(self.rows[chosen].t(), weights[chosen].to(self.rows)).double().cpu()

    def vectors(self) -> Tensor:
        return self.rows


@dataclass(frozen=True, slots=True)
class _Reduced:
    """Changes in fewer numbers: the sum is reduced, not each. See `Change`."""

    inner: Changes
    reduce: Callable[[Tensor], Tensor]

    def largest(self) -> Tensor:
        return self.inner.largest()  # of all that might be sent

    def norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.vectors(), dim=1)
        return norms

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.reduce(self.inner.weighted_sum(weights))

    def vectors(self) -> Tensor:
        return self.reduce(self.inner.vectors())


def of_rows(rows: Tensor) -> Changes:
    """Return changes that are these vectors [clients, model]."""
    return _Vectors(rows)


def in_fewer(changes: Changes, reduce: Callable[[Tensor], Tensor]) -> Changes:
    """Return changes in fewer numbers, by a linear map [..., model] -> [..., width]."""
    return _Reduced(changes, reduce)


def encoded(changes: Changes, transform: Transform) -> Changes:
    """Return changes as they enter the sum; only what needs whole vectors forms them."""
    if isinstance(transform, Unchanged):
        return changes
    if isinstance(transform, Clip):
        return _Scaled(changes, transform.factors(changes.norms()))
    return _Vectors(transform.encode(changes.vectors()))


def largest_of(stacked: Tensor) -> Tensor:
    """Return each client's largest absolute number: [clients]; NaN stays NaN."""
    flat = stacked.reshape(len(stacked), -1)
    # abs would copy it, aminmax takes twenty times as long.
    return torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))


def take_rows(x: Tensor, places: Tensor) -> Tensor:
    """Return `x[places]`; on a CPU without a copy where the places are all rows in order.

    A GPU copies faster than it could be asked: the host would wait for all that it has to do.
    """
    flat, shape = places.flatten(), (*places.shape, *x.shape[1:])
    is_cheap = x.device.type == "cpu" and len(flat) == len(x)
    if is_cheap and torch.equal(flat, torch.arange(len(x))):
        return x.view(shape)
    return x.index_select(0, flat).view(shape)


def flat_like(module: nn.Module, parts: Sequence[Tensor]) -> Tensor:
    """Put flat parts at their places among frozen parameters and buffers, which are zero."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    following = iter(parts)
    pieces = []
    for name, shape in layout(module):
        size = torch.Size(shape).numel()
        pieces.append(next(following) if name in trained else parts[0].new_zeros(size))
    return torch.cat(pieces)
