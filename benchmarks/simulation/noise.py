"""The data of the workloads as a data set of fedsim's: an entry point names it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import workloads

from fedsim.data import Dataset, Examples, Meta


@dataclass(frozen=True, slots=True)
class Noise:
    """Random inputs and labels of a workload."""

    workload: str = "W2"

    def load(self, data_dir: Path | None = None) -> Dataset:
        """Return the data with their clients."""
        size, folder = workloads.SIZES[self.workload], Path(os.environ["FEDSIM_BENCH"])
        x = np.load(folder / f"{self.workload}_x.npy")
        y = np.load(folder / f"{self.workload}_y.npy")
        group = np.repeat(np.arange(size["clients"]), size["each"])
        names = tuple(map(str, range(size["clients"])))
        meta = Meta(
            self.workload, "classification", tuple(size["shape"]), 10, "0" * 64,
            mean=0.5, std=0.5, group_names=names,
        )  # fmt: skip
        return Dataset(meta, Examples(x, y, group), Examples(x[:10], y[:10], None))
