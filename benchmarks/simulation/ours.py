"""fedsim on a workload.

python ours.py FOLDER WORKLOAD ROUNDS TIER [sgd|adam] [ENGINE]: prints `workloads.figures`, and what
was chosen. ENGINE: other values of the section `engine`, as JSON.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import workloads

from fedsim.data import Dataset, Examples, Meta


@dataclass(frozen=True, slots=True)
class Noise:
    """Random inputs and labels of a workload, as a data set: an entry point names it."""

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


def main() -> None:
    """Run and print."""
    import fedsim

    folder, name, rounds, tier = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    optimizer = sys.argv[5] if len(sys.argv) > 5 else "sgd"
    engine = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}
    stamps = [perf_counter()]

    def listen(event: object) -> None:
        if type(event).__name__ == "RoundDone":
            stamps.append(perf_counter())

    result = fedsim.run(
        {
            "name": name,
            "data": {"name": "noise", "workload": name},
            "partition": {"name": "natural"},
            "model": {"name": f"workloads:{name.lower()}"},
            "local": {"batch_size": workloads.BATCH},
            "optimizer": {"name": optimizer, "lr": 0.1 if optimizer == "sgd" else 0.001},
            "rounds": {"count": rounds, "cohort": workloads.SIZES[name]["cohort"]},
            "evaluation": {"central_every": 0, "federated_every": 0, "holdout": 0.0},
            "engine": {"workers": 2, "tier": tier, **engine},
        },
        runs=folder / "runs",
        listener=listen,
    )
    # From the end of one round to the end of the next: what is stored of it is included.
    print(workloads.figures(stamps, **result.stored.facts["execution"]))


if __name__ == "__main__":
    main()
