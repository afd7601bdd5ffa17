"""Laplace noise on every update: pure epsilon.

Dwork, McSherry, Nissim and Smith, "Calibrating noise to sensitivity in private data analysis", TCC
2006, section 3.1. Any update may take any other's place, and two of L1 norm C may be 2 C apart. A
sum of d coordinates' noise has a standard deviation that grows with C, and the L1 norm of a typical
update with sqrt(d): for many coordinates, Gaussian noise or PrivUnit disturbs less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from fedsim.privacy.events import Release
from fedsim.privacy.mechanisms._rows import by_row, clipped
from fedsim.privacy.noise import Stream, add_laplace

__all__ = ["Laplace"]


@dataclass(frozen=True, slots=True)
class Laplace:
    """Clip to `clipping_norm` (L1), add Laplace noise to every coordinate.

    One release is `epsilon`-DP; `noise_multiplier`, scale / (2 x `clipping_norm`), sets the noise
    instead: it is 1 / epsilon.
    """

    clipping_norm: Annotated[float, Gt(0)] = 1.0
    epsilon: Annotated[float, Gt(0)] = 8.0
    noise_multiplier: Annotated[float, Gt(0)] | None = None

    @property
    def multiplier(self) -> float:
        """Return scale / sensitivity."""
        return self.noise_multiplier or 1 / self.epsilon

    @property
    def scale(self) -> float:
        """Return the scale of a coordinate's noise, of density exp(-|x| / scale) / (2 scale)."""
        return self.multiplier * 2 * self.clipping_norm

    @property
    def std(self) -> float:
        """Return the standard deviation of a coordinate's noise."""
        return float(2**0.5 * self.scale)

    def release(self) -> Release:
        """Return what one randomized update spends of its client's budget."""
        return Release("laplace", self.multiplier)

    def randomize(self, vectors: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Return updates [clients, model] as their clients send them."""
        return by_row(self._one, vectors, streams)

    def _one(self, vector: Tensor, stream: Stream) -> Tensor:
        inside = clipped(vector, self.clipping_norm, order=1)
        return add_laplace(inside, self.scale, stream, bound=self.clipping_norm)
