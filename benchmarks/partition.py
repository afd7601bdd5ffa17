"""Time and memory of the partitioners, beside those of flwr-datasets.

    python benchmarks/partition.py [--examples 1000000] [--clients 1000 100000]

Every row runs in a process of its own, so that peak memory is its own. flwr-datasets hands out one
data set per client; "all read" adds what reading every one of them would take, from 200 of them.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
import warnings
from typing import Any

import numpy as np

_LIMIT_S = 120

OURS = {
    "iid": {},
    "dirichlet": {"alpha": 0.5},
    "dirichlet, least 1": {"alpha": 0.5, "min_size": 1},
    "pathological": {"classes_per_client": 2},
    "shards": {"per_client": 2},
    "quantity": {"alpha": 0.5},
}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "iid": ("IidPartitioner", {}),
    "dirichlet": (
        "DirichletPartitioner",
        {"partition_by": "label", "alpha": 0.5, "min_partition_size": 0},
    ),
    "dirichlet, least 1": (
        "DirichletPartitioner",
        {"partition_by": "label", "alpha": 0.5, "min_partition_size": 1},
    ),
    "pathological": (
        "PathologicalPartitioner",
        {
            "partition_by": "label",
            "num_classes_per_partition": 2,
            "class_assignment_mode": "first-deterministic",
        },
    ),
    "shards": ("ShardPartitioner", {"partition_by": "label", "num_shards_per_partition": 2}),
}


def main() -> None:
    arguments = _arguments()
    if arguments.row:
        library, name, clients = arguments.row
        run = _ours if library == "fedsim" else _theirs
        print(run(name, int(clients), arguments.examples))
        return
    print(f"{arguments.examples:,} examples, 10 classes, {os.cpu_count()} cores")
    print(
        f"{'partitioner':20} {'clients':>9} {'library':14} {'seconds':>9} {'peak MB':>8}  all read"
    )
    for clients in arguments.clients:
        for name in OURS:
            for library in ("fedsim", "flwr-datasets"):
                if library == "fedsim" or name in THEIRS:
                    result = _in_process(library, name, clients, arguments.examples)
                    print(f"{name:20} {clients:>9,} {library:14} {result}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(library: str, name: str, clients: int, examples: int) -> str:
    command = [sys.executable, __file__, "--examples", str(examples)]
    command += ["--row", library, name, str(clients)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"no result in {_LIMIT_S} s"
    return done.stdout.strip() or f"failed: {done.stderr.strip().splitlines()[-1][:60]}"


def _labels(examples: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 10, examples)


def _ours(name: str, clients: int, examples: int) -> str:
    from fedsim import registry, rng

    part = registry.load("partition", name.split(",")[0])(clients=clients, **OURS[name])
    y = _labels(examples)
    start = time.perf_counter()
    part.assign(y, None, rng.stream(0, "partition"))
    seconds = time.perf_counter() - start
    return f"{seconds:9.2f} {_peak_mb():8.0f}  {seconds:8.2f}"


def _theirs(name: str, clients: int, examples: int) -> str:
    warnings.simplefilter("ignore")
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    import flwr_datasets.partitioner
    from datasets import Dataset

    kind, options = THEIRS[name]
    partitioner = getattr(flwr_datasets.partitioner, kind)(num_partitions=clients, **options)
    table = Dataset.from_dict({"label": _labels(examples)})
    start = time.perf_counter()
    partitioner.dataset = table
    try:
        partitioner.load_partition(0)
    except ValueError as error:
        return f"{time.perf_counter() - start:9.2f} {_peak_mb():8.0f}  refused: {str(error)[:60]}"
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for client in range(1, 201):
        partitioner.load_partition(client)
    each = (time.perf_counter() - start) / 200
    return f"{seconds:9.2f} {_peak_mb():8.0f}  {seconds + each * clients:8.2f}"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
