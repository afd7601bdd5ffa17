"""Max-pooling of feature maps as torch lays them out, by the kernel that it has for channels last.

Of maps with channels first torch compares one number after another; with channels last as many as
a processor can. Putting a map the other way and the result back costs less than the difference:
pooling takes a quarter of the time (docs/performance.md). The largest number of a window is the
same, and so is its place, the first of several: no bit changes, for a user's app either.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["pool_channels_last"]

_NAME = "max_pool2d_with_indices"
_LEAST = 2**15  # numbers of a map: below, its copies cost more than they save


def pool_channels_last() -> Any:
    """Have this process pool large maps on its CPU so, as long as what is returned lives.

    None where torch does not give access to its kernels.
    """
    if not hasattr(torch.library, "get_kernel"):
        return None
    kernel: Any = torch.library.get_kernel(f"aten::{_NAME}", "CPU").call_boxed

    def pooled(keys: Any, x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or x.numel() < _LEAST or not x.is_contiguous():
            found: tuple[Tensor, Tensor] = kernel(keys, x, *options)
            return found
        values, places = kernel(keys, x.contiguous(memory_format=torch.channels_last), *options)
        first = torch.contiguous_format  # a copy, also where one number lies as well either way
        return values.clone(memory_format=first), places.clone(memory_format=first)

    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it takes the place of torch's: as meant
        library.impl(_NAME, pooled, "CPU", with_keyset=True, allow_override=True)
    return library
