"""Counter-based random streams of clients: a hash of a client's key and of a position.

What a client draws must not depend on who is trained beside it, and a block of clients must draw at
once, on a CPU or a GPU. So batches and dropout masks come from a hash: two rounds of the 32-bit
finalizer of MurmurHash3 (Appleby 2011), each keyed. It is no cryptographic generator: nothing that
must be secret comes from here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim import rng

__all__ = ["bits", "client_keys", "permutations"]

_GOLDEN, _PRIME = -1640531527, 2135587861  # odd 32-bit constants (golden ratio; xxHash's second)
_LAST = 2**31 - 1


def client_keys(seed: int, purpose: str, round: int, clients: Sequence[int]) -> Tensor:
    """Return the keys of clients in a round for a purpose: int32 [clients, 2]."""
    derived = rng.derive(seed, purpose, round=round)
    words = [_wrapped(derived >> 32 * i) for i in range(4)]
    ids = torch.tensor(clients, dtype=torch.int64)
    low, high = _as_int32(ids), _as_int32(ids >> 32)
    first = _mix(_mix((low * _GOLDEN) ^ words[0]) + (high ^ words[1]))
    second = _mix(_mix((low * _PRIME) ^ words[2]) + (high ^ words[3]))
    return torch.stack([first, second], dim=-1)


def bits(keys: Tensor, count: int, salt: int) -> Tensor:
    """Return 32 random bits for each of `count` positions: int32 [..., count].

    `keys` are int32 [..., 2]; `salt` tells draws of the same key apart.
    """
    first, second = (keys[..., i].unsqueeze(-1) for i in (0, 1))
    index = torch.arange(count, dtype=torch.int32, device=keys.device)
    return _mix(_mix((index * _GOLDEN) ^ _mix(first + _wrapped(salt * _PRIME))) + second)


def permutations(keys: Tensor, sizes: Tensor, salt: int) -> Tensor:
    """Return a random order of 0 .. size - 1 for each client: int64 [clients, largest size].

    Beyond a client's size comes whatever is left. Orders are those of random 32-bit numbers; the
    rare ties among them keep the order of the places.
    """
    drawn = bits(keys, int(sizes.max()), salt).clamp(max=_LAST - 1)
    place = torch.arange(drawn.shape[1], device=keys.device)
    return drawn.masked_fill(place >= sizes.unsqueeze(1), _LAST).argsort(dim=1, stable=True)


def _mix(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finalizer on int32 (multiplication wraps; shifts made logical)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * -2048144789  # 0x85ebca6b
    x = x ^ ((x >> 13) & 0x7FFFF)
    x = x * -1028477387  # 0xc2b2ae35
    return x ^ ((x >> 16) & 0xFFFF)


def _as_int32(x: Tensor) -> Tensor:
    return ((x + 2**31) % 2**32 - 2**31).to(torch.int32)


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
