"""How fast a GPU could train clients at best, from its data sheet, and how busy it was."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import workloads
from torch import nn

__all__ = ["Limits", "Utilization", "has_gpu", "limits", "work"]

#: Words of the device's name -> TFLOP/s in fp32, in TF32 without sparsity (0: has none), GB/s.
#: NVIDIA's data sheets; the first entry whose words are all in the name counts.
PUBLISHED = {
    ("H200",): (66.9, 494.7, 4800),
    ("H100", "PCIe"): (51.2, 378.0, 2000),
    ("H100",): (66.9, 494.7, 3350),
    ("A100", "80GB"): (19.5, 156.0, 2039),
    ("A100",): (19.5, 156.0, 1555),
    ("L40S",): (91.6, 183.0, 864),
    ("L4",): (30.3, 60.0, 300),
    ("A10",): (31.2, 62.5, 600),
    ("V100",): (15.7, 0.0, 900),
    ("T4",): (8.1, 0.0, 320),
}
#: fp32 units of a multiprocessor by compute capability, where they are not 128.
CORES = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
_BYTES = 4
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client takes, and the seconds of it that arithmetic and memory need at least.

    `fp32`, `tf32` and `memory` are None where the device is not known.
    """

    device: str
    flop: float
    moved: float
    fp32: float | None = None
    tf32: float | None = None
    memory: float | None = None

    def reached(self, seconds: float) -> tuple[str, str]:
        """Return which part of the fp32 and of the TF32 limit so many seconds per client are."""
        found = []
        for arithmetic in (self.fp32, self.tf32):
            known = arithmetic and self.memory
            share = max(arithmetic, self.memory) / seconds if known else None
            found.append("n/a" if share is None else f"{100 * share:.2g} %")
        return found[0], found[1]

    def lines(self) -> list[str]:
        """Return the estimate in words."""
        each = f"one client: {self.flop / 1e9:.3g} GFLOP, {self.moved / 1e9:.2g} GB moved at least"
        found = [f"- {self.device}; {each}"]
        for name, least in (("fp32", self.fp32), ("TF32", self.tf32), ("memory", self.memory)):
            if least:
                speed = f"{1e6 * least:.0f} µs per client, {1 / least:,.0f} clients/s"
                found.append(f"- limit by {name}: {speed}")
        return found


class Utilization:
    """Asks, twice a second, how busy the first GPU is; a context manager."""

    def __init__(self, device: str) -> None:
        self._ask = _meter() if device == "cuda" else None
        self._seen: list[tuple[float, float]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Utilization":
        if self._ask:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._ask:
            self._thread.join()

    def during(self, record: Mapping[str, Any]) -> float | None:
        """Return the mean percentage over the rounds that count; None where nothing was seen."""
        first = record["first_end"]
        last = first + sum(record["seconds"][1:])
        seen = [percent for at, percent in self._seen if first <= at <= last]
        return sum(seen) / len(seen) if seen else None

    def _look(self) -> None:
        while self._ask and not self._is_over.wait(_PAUSE_S):
            self._seen.append((time.time(), self._ask()))


def has_gpu() -> bool:
    """Say whether torch sees a CUDA device; starts nothing on it."""
    return torch.cuda.is_available()


def work(workload: str) -> tuple[float, float]:
    """Return a client's FLOP and the bytes that stacked training of it moves at least.

    Every product of the forward pass has two in the backward pass, but for the gradient of the
    examples themselves, which nobody needs; a product is 2 FLOP. In every step weights are read for
    both passes, their gradients written, and the optimizer reads both and writes the weights: 6
    accesses. Every activation and its gradient is written once and read once. What fused layers and
    caches would spare is not counted.
    """
    size = workloads.SIZES[workload]
    steps = -(-size["each"] // workloads.BATCH)
    module = workloads.model(workload).to("meta")
    products: list[int] = []
    activations: list[int] = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        activations.append(output.numel())
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            products.append(output.numel() * layer.weight[0].numel())

    for layer in module.children():
        layer.register_forward_hook(count)
    module(torch.zeros(1, *size["shape"], device="meta"))
    weights = sum(p.numel() for p in module.parameters())
    accesses = steps * 6 * weights + size["each"] * 4 * sum(activations)
    flop = size["each"] * 2 * (3 * sum(products) - products[0])
    return float(flop), float(_BYTES * accesses)


def limits(device: str, workload: str) -> Limits:
    """Return the limits of this machine's device for a client of a workload."""
    flop, moved = work(workload)
    if device == "cpu" or not has_gpu():
        return Limits("CPU" if device == "cpu" else "no GPU here", flop, moved)
    properties = torch.cuda.get_device_properties(0)
    words = (key for key in PUBLISHED if all(word in properties.name for word in key))
    known = PUBLISHED.get(next(words, ()))
    clock = getattr(properties, "clock_rate", 0) * 1e3  # kHz; older versions of torch lack it
    cores = CORES.get((properties.major, properties.minor), 128)
    counted = properties.multi_processor_count * cores * 2 * clock
    if known is None:
        return Limits(properties.name, flop, moved, fp32=flop / counted if counted else None)
    fp32, tf32, bandwidth = known
    return Limits(
        properties.name,
        flop,
        moved,
        fp32=flop / (counted or fp32 * 1e12),
        tf32=flop / (tf32 * 1e12) if tf32 else None,
        memory=moved / (bandwidth * 1e9),
    )


def _meter() -> Callable[[], float] | None:
    """Return what reads the first GPU's utilization in percent, if there is anything."""
    try:
        import pynvml

        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    except Exception:  # not installed, or no driver: NVML's errors share no base with others
        program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def ask() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return float(done.stdout.strip() or "nan")

    return ask
