"""What `privacy.unit = "example"` makes of a local algorithm: the same steps, by DP-SGD."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from fedsim.clients._local import train_locally
from fedsim.core import ClientContext, Clipping, Memo, Recipe, Task, Update
from fedsim.privacy.clipping import mixes_examples

__all__ = ["Private"]


@dataclass(frozen=True, slots=True)
class Private:
    """A local algorithm with clipped gradients and accounted noise in every step.

    `inner` is any algorithm that is a `Recipe`. `noise_multiplier` None: it is still to be found,
    and nothing can be trained.
    """

    inner: Any
    clipping_norm: float
    noise_multiplier: float | None
    at_once: int | None = None
    engine: Literal["fedsim", "opacus", "opacus-ghost"] = "fedsim"

    @property
    def recipe(self) -> Recipe:
        """Return the inner algorithm's steps, clipped; raises `ValueError` without noise."""
        if self.noise_multiplier is None:
            raise ValueError("the noise multiplier has not been found yet")
        clipping = Clipping(
            self.clipping_norm, self.noise_multiplier, "chacha20", self.at_once, self.engine
        )
        recipe: Recipe = replace(self.inner.recipe, clipping=clipping)
        return recipe

    def refuses(self, module: nn.Module) -> str:
        """Say why a model cannot be trained like this, "" if it can."""
        own = getattr(self.inner, "refuses", None)
        return mixes_examples(module) or (own(module) if own else "")

    def train(self, task: Task, memo: Memo, ctx: ClientContext) -> tuple[Update, Memo]:
        """Train on the shard; the update weighs as many as there are examples."""
        return train_locally(task, memo, ctx, self.recipe)
