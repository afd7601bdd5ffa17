"""Label flipping: malicious clients train on wrong labels.

Fang et al., "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
2020 (label flipping attack): label l of L becomes L - l - 1. With a source and a target, as in
Tolpegin et al., "Data poisoning attacks against federated learning systems", ESORICS 2020.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Lt

from fedsim.data import Examples, Meta
from fedsim.errors import ConfigError, Problem

__all__ = ["LabelFlip"]


@dataclass(frozen=True, slots=True)
class LabelFlip:
    """Turn label l of L into L - l - 1; or only `source` into `target`.

    `fraction` of the clients are malicious, drawn by the seed, or exactly the `clients` named.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    clients: tuple[int, ...] = ()
    source: Annotated[int, Ge(0)] | None = None
    target: Annotated[int, Ge(0)] | None = None

    needs: ClassVar = "rows"

    def __post_init__(self) -> None:
        """Refuse one of source and target without the other."""
        if (self.source is None) != (self.target is None):
            name = "source" if self.source is None else "target"
            raise ConfigError([Problem(f"attack.{name}", None, "set, with the other of both")])

    def unfit(self, meta: Meta) -> str:
        """Say why it cannot be made on data; "" where it can."""
        classes = 2 if meta.kind == "binary" else meta.outputs
        if meta.kind == "regression":
            return f"an attack on numbers: {meta.name} has no labels"
        if max(self.source or 0, self.target or 0) >= classes:
            return f"labels below {classes}, those of {meta.name}"
        return ""

    def poison(self, shard: Examples, meta: Meta, stream: np.random.Generator) -> Examples:
        """Return the shard with its labels flipped."""
        classes = 2 if meta.kind == "binary" else meta.outputs
        flipped = classes - 1 - shard.y
        if self.source is not None and self.target is not None:
            flipped = np.where(shard.y == self.source, self.target, shard.y)
        return replace(shard, y=flipped.astype(shard.y.dtype))
