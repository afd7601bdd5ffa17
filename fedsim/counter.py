"""Counter-based random streams of clients: a hash of a client's key and of a position.

What a client draws must not depend on who is trained beside it, and a block of clients must draw at
once, on a CPU or a GPU. So batches and dropout masks come from a hash: two rounds of the 32-bit
finalizer of MurmurHash3 (Appleby 2011), each keyed. It is no cryptographic generator: nothing that
must be secret comes from here.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from fedsim import rng

__all__ = ["bits", "client_keys", "permutations"]

_GOLDEN, _PRIME = -1640531527, 2135587861  # odd 32-bit constants (golden ratio; xxHash's second)
_LAST = 2**31 - 1
_PIECE = 2**15  # of positions: with the scratch memory, 256 KiB

_Words = TypeVar("_Words", Tensor, np.ndarray)


def client_keys(seed: int, purpose: str, round: int, clients: Sequence[int]) -> np.ndarray:
    """Return the keys of clients in a round for a purpose: int32 [clients, 2]."""
    derived = rng.derive(seed, purpose, round=round)
    words = [_wrapped(derived >> 32 * i) for i in range(4)]
    halves = np.array(clients, dtype="<i8").view("<i4").reshape(-1, 2)
    low, high = halves[:, 0], halves[:, 1]
    first = _mix(_mix((low * _GOLDEN) ^ words[0]) + (high ^ words[1]))
    second = _mix(_mix((low * _PRIME) ^ words[2]) + (high ^ words[3]))
    return np.stack([first, second], axis=1)


def bits(keys: Tensor, count: int, salt: int) -> Tensor:
    """Return 32 random bits for each of `count` positions: int32 [..., count].

    `keys` are int32 [..., 2]; `salt` tells draws of the same key apart.
    """
    if keys.device.type == "cpu" and not is_functorch_wrapped_tensor(keys):  # as under vmap
        return torch.from_numpy(_bits(keys.numpy(), count, salt))
    first, second = (keys[..., i].unsqueeze(-1) for i in (0, 1))
    index = torch.arange(count, dtype=torch.int32, device=keys.device)
    return _hash(first, second, index, salt)


def _bits(keys: np.ndarray, count: int, salt: int) -> np.ndarray:
    """Return what `bits` does, in pieces that stay in the processor's cache, without temporaries.

    A third of the time of `_hash` on a whole array.
    """
    flat = keys.reshape(-1, 2).view(np.uint32)
    found = np.empty((len(flat), count), dtype=np.uint32)
    index = np.arange(count, dtype=np.uint32)
    index *= np.uint32(_GOLDEN % 2**32)
    first, second = (
        _mix(flat[:, :1].view(np.int32) + np.int32(_wrapped(salt * _PRIME))),
        flat[:, 1:],
    )
    first = first.view(np.uint32)
    rows, columns = max(1, _PIECE // max(1, count)), min(count, _PIECE)
    scratch = np.empty((min(rows, len(flat)), columns), dtype=np.uint32)
    for row in range(0, len(flat), rows):
        for column in range(0, count, _PIECE):
            own = slice(row, row + rows)
            piece = found[own, column : column + _PIECE]
            free = scratch[: piece.shape[0], : piece.shape[1]]
            np.bitwise_xor(index[column : column + _PIECE], first[own], out=piece)
            _mix_in_place(piece, free)
            piece += second[own]
            _mix_in_place(piece, free)
    return found.view(np.int32).reshape(*keys.shape[:-1], count)


def permutations(keys: np.ndarray, sizes: np.ndarray, salt: int) -> np.ndarray:
    """Return a random order of 0 .. size - 1 for each client: int64 [clients, largest size].

    Beyond a client's size comes whatever is left. Orders are those of random 32-bit numbers; the
    rare ties among them keep the order of the places.
    """
    count = int(sizes.max())
    drawn = _bits(keys, count, salt).clip(max=_LAST - 1)
    drawn[np.arange(count) >= sizes[:, None]] = _LAST
    return np.asarray(drawn.argsort(axis=1, kind="stable"))


def _hash(first: Tensor, second: Tensor, index: Tensor, salt: int) -> Tensor:
    return _mix(_mix((index * _GOLDEN) ^ _mix(first + _wrapped(salt * _PRIME))) + second)


def _mix(x: _Words) -> _Words:
    """MurmurHash3's 32-bit finalizer on int32 (multiplication wraps; shifts made logical)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * -2048144789  # 0x85ebca6b
    x = x ^ ((x >> 13) & 0x7FFFF)
    x = x * -1028477387  # 0xc2b2ae35
    mixed: _Words = x ^ ((x >> 16) & 0xFFFF)
    return mixed


def _mix_in_place(x: np.ndarray, scratch: np.ndarray) -> None:
    """Do what `_mix` does on uint32, whose shifts are logical, with memory of the same shape."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        np.right_shift(x, np.uint32(shift), out=scratch)
        x ^= scratch
        x *= np.uint32(factor)
    np.right_shift(x, np.uint32(16), out=scratch)
    x ^= scratch


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
