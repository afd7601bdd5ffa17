"""Poisson sampling: every example is in a batch by a coin of its own.

What DP-SGD's analysis assumes (Abadi et al., CCS 2016, section 3.1). The coins come from a client's
counter-based stream, so a block of clients may toss at once what each would toss alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim import counter

__all__ = ["poisson_batch", "poisson_members"]


def poisson_batch(keys: Tensor, size: int, rate: float, step: int) -> Tensor:
    """Return which of `size` examples are in the batch of a step: each with probability `rate`.

    `keys`: int32 [1, 2], the client's. The rate is met to 2^-32.
    """
    if rate >= 1:
        return torch.arange(size, device=keys.device)
    drawn = counter.bits(keys, size, -1 - step)[0]
    return (drawn < _threshold(rate)).nonzero().flatten()


def poisson_members(
    keys: Tensor, sizes: Sequence[int], rates: Sequence[float], step: int
) -> Tensor:
    """Return `poisson_batch` of many clients, as a table: bool [clients, largest size].

    `keys`: int32 [clients, 2].
    """
    drawn = counter.bits(keys, max(sizes), -1 - step)
    below = torch.tensor([_threshold(rate) for rate in rates], device=keys.device)
    place = torch.arange(max(sizes), device=keys.device)
    is_there = place < torch.tensor(sizes, device=keys.device).unsqueeze(1)
    return (drawn < below.unsqueeze(1)) & is_there


def _threshold(rate: float) -> int:
    """Return the number below which a signed 32-bit number is with probability `rate`."""
    return round(rate * 2**32) - 2**31
