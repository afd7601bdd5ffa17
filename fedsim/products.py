"""Matrix products on a CPU by the library of torch's that uses the whole processor.

torch's own dense layers are MKL's, which stays with AVX2 on processors that are not Intel's. There
oneDNN, torch's library for convolutions, uses AVX-512: 2.2 times as fast on an AMD EPYC (Zen 5).
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["accumulate", "is_onednn_faster", "linear"]

_CPUS = Path("/proc/cpuinfo")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight' + bias, as `nn.functional.linear` does but for rounding; no gradients.

    x: [..., in]; weight: [out, in], also as a transposed view; bias: [out].
    """
    if is_onednn_faster(x):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return nn.functional.linear(x, weight, bias)


def accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left' right to `total` [out, in]; left: [rows, out], right: [rows, in]; no gradients."""
    if is_onednn_faster(total):
        total += linear(left.t().contiguous(), right.t())
    else:
        total.addmm_(left.t(), right)


def is_onednn_faster(x: Tensor) -> bool:
    """Say whether `linear` leaves products with x to oneDNN."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _leaves_avx512_unused()


@cache
def _leaves_avx512_unused(cpus: Path = _CPUS) -> bool:
    """Say whether this is a processor with AVX-512 on which MKL does not use it."""
    try:
        is_amd = "AuthenticAMD" in cpus.read_text()
    except OSError:
        is_amd = False
    is_there = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return is_amd and is_there and torch.backends.cpu.get_cpu_capability() == "AVX512"
