"""The sizes of the workloads, without torch: importing it is part of how an engine starts."""

import json
import os
from typing import Any

__all__ = ["BATCH", "LR", "SIZES"]

BATCH, LR = 10, 0.1
SIZES: dict[str, dict[str, Any]] = {
    "W1": {"clients": 1000, "each": 50, "shape": (3, 32, 32), "cohort": 50},
    "W2": {"clients": 10_000, "each": 20, "shape": (784,), "cohort": 1000},
}
for _name, _sizes in json.loads(os.environ.get("FEDSIM_BENCH_SIZES", "{}")).items():
    SIZES[_name] |= _sizes
