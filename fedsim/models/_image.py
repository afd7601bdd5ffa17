"""Images of any usual layout as [n, channels, height, width]."""

import math

from torch import Tensor

from fedsim.errors import ConfigError, Problem

__all__ = ["as_images", "image_shape"]


def image_shape(input_shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    """Read (C, H, W), (H, W) or a flat square as (channels, height, width).

    Raises `ConfigError` for a shape that is no image.
    """
    if len(input_shape) == 3:
        channels, height, width = input_shape
        return channels, height, width
    if len(input_shape) == 2:
        return 1, *input_shape
    side = math.isqrt(input_shape[0]) if len(input_shape) == 1 else 0
    if side < 4 or side * side != input_shape[0]:
        accepted = f"a model for inputs of shape {input_shape}, such as mlp or linear"
        raise ConfigError([Problem("model.name", model, accepted)])
    return 1, side, side


def as_images(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return x [n, ...] as [n, channels, height, width]."""
    return x.reshape(x.shape[0], *shape)
