"""Dropout whose masks depend on (seed, round, client, step, call) and on nothing else.

torch draws masks from one generator, so a client's masks depend on who is trained beside it. Here
a mask is a hash of a client's key and of the position in the tensor: the same for a client alone,
in a block of many, on a CPU and on a GPU. The hash is two rounds of the 32-bit finalizer of
MurmurHash3 (Appleby 2011), each keyed; it is no cryptographic generator and hides nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsim import rng

__all__ = ["Dropout", "client_keys", "keep", "keyed", "replace_dropout"]

_STEP, _CALL = -1640531527, 2135587861  # odd 32-bit constants (golden ratio; xxHash's second prime)


@dataclass(slots=True)
class _Stream:
    """Where masks come from during one training step; `calls` counts the masks drawn."""

    keys: Tensor
    step: int
    calls: int = 0


_streams: list[_Stream] = []


def client_keys(seed: int, round: int, clients: Sequence[int]) -> Tensor:
    """Return the keys of clients in a round: int32 [clients, 2]."""
    derived = [rng.derive(seed, "dropout", round=round, client=c) % 2**64 for c in clients]
    words = np.array(derived, dtype=np.uint64).view(np.int32).reshape(-1, 2)
    return torch.from_numpy(words.copy())


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
    salt = _wrapped(stream.step * _STEP + stream.calls * _CALL)
    stream.calls += 1
    first, second = (stream.keys[..., i].unsqueeze(-1) for i in (0, 1))
    size = int(np.prod(shape))
    index = torch.arange(size, dtype=torch.int32, device=stream.keys.device)
    bits = _mix((index * _STEP) ^ _mix(first + salt))
    bits = _mix(bits + second)
    threshold = round(p * 2**32) - 2**31  # of the signed range
    if threshold > 2**31 - 1:
        return torch.zeros_like(bits, dtype=torch.bool).reshape(*bits.shape[:-1], *shape)
    return (bits >= threshold).reshape(*bits.shape[:-1], *shape)


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
        return torch.where(mask, x / (1 - self.p) if self.p < 1 else x, 0.0)

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


def _mix(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finalizer on int32 (multiplication wraps; shifts made logical)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * -2048144789  # 0x85ebca6b
    x = x ^ ((x >> 13) & 0x7FFFF)
    x = x * -1028477387  # 0xc2b2ae35
    return x ^ ((x >> 16) & 0xFFFF)


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
