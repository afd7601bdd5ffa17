"""The workloads all engines run: random data, the model, the sizes.

W1: CIFAR10-shaped, 1000 clients of 50 examples, pfl-research's CNN of 1.63 M parameters, cohort 50.
W2: 10,000 clients of 20 examples of 784 numbers, an MLP of 50,890 parameters, cohort 1000.
One local epoch in batches of 10, SGD with learning rate 0.1. FEDSIM_BENCH_SIZES in the environment
changes sizes for all engines alike: JSON such as {"W1": {"cohort": 1000}}.
"""

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sizes import BATCH, LR, SIZES
from torch import nn

__all__ = ["BATCH", "LR", "SIZES", "examples", "figures", "make_data", "model"]


def make_data(folder: Path, name: str) -> None:
    """Write a workload's data once: uint8 inputs, int64 labels."""
    size, file = SIZES[name], folder / f"{name}_y.npy"
    if file.exists():
        return
    stream = np.random.default_rng(0)
    count = size["clients"] * size["each"]
    inputs = stream.integers(0, 256, (count, *size["shape"]), dtype=np.uint8)
    np.save(folder / f"{name}_x.npy", inputs)
    np.save(file, stream.integers(0, 10, count, dtype=np.int64))


def examples(folder: Path, name: str, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one client's inputs, float32 in [-1, 1], and labels."""
    each = SIZES[name]["each"]
    own = slice(client * each, (client + 1) * each)
    x, y = (_mapped(folder / f"{name}_{part}.npy")[own] for part in "xy")
    inputs = torch.from_numpy(np.array(x)).float().div_(127.5).sub_(1.0)
    return inputs, torch.from_numpy(np.array(y))


def figures(stamps: Sequence[float], **facts: Any) -> str:
    """Write what an engine says of itself as one line of JSON.

    `stamps` (of `perf_counter`): when the first round began, and when each one ended. The time of
    day of the first end tells the caller, who knows when it started the engine, what came before.
    """
    seconds = [b - a for a, b in pairwise(stamps)]
    first_end = time.time() - (perf_counter() - stamps[1])
    return json.dumps({"seconds": seconds, "first_end": first_end, **facts})


@lru_cache
def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def model(name: str) -> nn.Module:
    """Return the model with its first weights."""
    torch.manual_seed(0)
    if name == "W2":
        return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(12544, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip


def w1() -> nn.Module:
    """Return W1's model, for an experiment's `model.name`."""
    return model("W1")


def w2() -> nn.Module:
    """Return W2's model, for an experiment's `model.name`."""
    return model("W2")
