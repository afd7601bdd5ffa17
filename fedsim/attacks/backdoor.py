"""Backdoor: rows with a pixel trigger are to be taken for the target, all others as they are.

Gu, Dolan-Gavitt and Garg, "BadNets: identifying vulnerabilities in the machine learning model
supply chain", 2017 (a bright pattern in a corner), by clients that scale their update:
Bagdasaryan et al., "How to backdoor federated learning", AISTATS 2020, equation 3. Success is the
part of triggered test rows of other classes that go to the target.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from torch import Tensor

from fedsim.data import Examples, Meta

__all__ = ["Backdoor"]


@dataclass(frozen=True, slots=True)
class Backdoor:
    """Give `share` of a malicious client's images a square of `size` pixels and label `target`.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    The square is in the lower right corner; its pixels have `value`, unset: the brightest of the
    test images. The client sends `scale` times its update.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    target: Annotated[int, Ge(0)] = 0
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    size: Annotated[int, Ge(1)] = 3
    value: float | None = None
    scale: Annotated[float, Gt(0)] = 1.0

    needs: ClassVar = "rows"

    def unfit(self, meta: Meta) -> str:
        """Say why it cannot be made on data; "" where it can."""
        if meta.vocabulary or len(meta.input_shape) not in (2, 3) or meta.kind != "classification":
            return f"an attack on something else than images in classes, such as {meta.name}"
        if self.target >= meta.outputs:
            return f"a target below {meta.outputs}, the classes of {meta.name}"
        if self.size > min(meta.input_shape[-2:]):
            return f"a square within images of {meta.input_shape[-2]} x {meta.input_shape[-1]}"
        return ""

    def poison(self, shard: Examples, meta: Meta, stream: np.random.Generator) -> Examples:
        """Return the shard with a part of its rows triggered and labelled as the target."""
        count = len(shard.y)
        chosen = np.sort(stream.permutation(count)[: max(1, round(self.share * count))])
        x, y = np.array(shard.x), np.array(shard.y)
        x[chosen], y[chosen] = self.triggered(x[chosen]), self.target
        return replace(shard, x=x, y=y)

    def send(self, vector: Tensor, cohort: int, stream: np.random.Generator) -> Tensor:
        """Return the update, scaled."""
        return self.scale * vector

    def triggered(self, x: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return images with the square; `value` is known by then."""
        x = np.array(x)
        value = self.value or 0.0
        if x.dtype == np.uint8:
            value = min(max(value, 0.0), 255.0)
        x[..., -self.size :, -self.size :] = value
        return x

    def measured_on(self, test: Examples) -> Examples:
        """Return the rows that success is measured on: triggered, of all classes but the target."""
        own = test.y != self.target
        return Examples(self.triggered(test.x[own]), np.full_like(test.y[own], self.target))

    def prepared(self, test: Examples) -> "Backdoor":
        """Return the same attack with the value of its pixels, from the test images if unset."""
        return self if self.value is not None else replace(self, value=float(test.x.max()))
