"""Dropout whose masks depend on (seed, round, client, step, call) and on nothing else.

torch draws masks from one generator, so a client's masks depend on who is trained beside it. Here
they come from the client's own counter-based stream: the same for a client alone, in a block of
many, on a CPU and on a GPU.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim import counter

__all__ = ["Dropout", "example_keys", "keep", "keyed", "replace_dropout"]

_MOST_CALLS = 2**12  # in a step; tells the masks of a step from those of the next


@dataclass(slots=True)
class _Stream:
    """Where masks come from during one training step; `calls` counts the masks drawn."""

    keys: Tensor
    step: int
    calls: int = 0


_streams: list[_Stream] = []


@contextmanager
def keyed(keys: Tensor, step: int) -> Iterator[None]:
    """Let every `Dropout` inside draw from the stream of `keys` (int32 [..., 2]) at a step."""
    _streams.append(_Stream(keys, step))
    try:
        yield
    finally:
        _streams.pop()


def keep(shape: Sequence[int], p: float) -> Tensor:
    """Draw a mask from the current stream: True where an element stays, with probability 1 - p.

    The mask's shape is that of the keys without their last axis, then `shape`.
    """
    stream = _streams[-1]
    drawn = counter.bits(stream.keys, math.prod(shape), stream.step * _MOST_CALLS + stream.calls)
    stream.calls += 1
    threshold = round(p * 2**32) - 2**31  # of the signed range
    is_kept = drawn >= threshold if threshold < 2**31 else torch.zeros_like(drawn, dtype=torch.bool)
    return is_kept.reshape(*drawn.shape[:-1], *shape)


def example_keys(count: int) -> tuple[Tensor, int]:
    """Return keys for `count` examples that are computed one by one, and a step.

    The keys, int32 [..., count, 2], are drawn from the current stream; where there is none, masks
    are torch's affair and these keys only count the examples.
    """
    if not _streams:
        return torch.zeros(count, 2, dtype=torch.int32), 0
    stream = _streams[-1]
    drawn = counter.bits(stream.keys, 2 * count, stream.step * _MOST_CALLS + stream.calls)
    stream.calls += 1
    return drawn.view(*drawn.shape[:-1], count, 2), stream.step


class Dropout(nn.Module):
    """`nn.Dropout` drawing from the current stream; from torch's generator where there is none."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements with probability p and scale the others by 1 / (1 - p), in training."""
        if not self.training or not self.p:
            return x
        if not _streams:
            return functional.dropout(x, self.p)
        lead = _streams[-1].keys.dim() - 1
        mask = keep(x.shape[lead:], self.p)
        scale = 1 / (1 - self.p) if self.p < 1 else 1.0
        return x * mask.to(x.dtype).mul_(scale)  # as torch does; half the time of `where`

    def extra_repr(self) -> str:
        """Show p, as torch does."""
        return f"p={self.p}"


def replace_dropout(module: nn.Module) -> nn.Module:
    """Put a `Dropout` in the place of every `nn.Dropout`; return the module."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, Dropout(child.p))
        else:
            replace_dropout(child)
    return Dropout(module.p) if type(module) is nn.Dropout else module
