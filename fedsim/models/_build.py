"""Build a model the same way in every process."""

from typing import Any

from torch import nn

from fedsim import rng
from fedsim.data import Meta

__all__ = ["build"]


def build(part: Any, meta: Meta, seed: int) -> nn.Module:
    """Build a model part for a data set; its initial weights depend on `seed` alone."""
    with rng.torch_stream(seed, "init"):
        module: nn.Module = part.build(meta)
    return module
