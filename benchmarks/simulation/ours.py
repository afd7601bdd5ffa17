"""fedsim on a workload.

python ours.py FOLDER WORKLOAD ROUNDS TIER [sgd|adam] [ENGINE]: prints `workloads.figures`, and what
was chosen. ENGINE: other values of the section `engine`, as JSON.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import sizes

import fedsim


def main() -> None:
    """Run and print."""
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
            "local": {"batch_size": sizes.BATCH},
            "optimizer": {"name": optimizer, "lr": 0.1 if optimizer == "sgd" else 0.001},
            "rounds": {"count": rounds, "cohort": sizes.SIZES[name]["cohort"]},
            "evaluation": {"central_every": 0, "federated_every": 0, "holdout": 0.0},
            "engine": {"workers": 2, "tier": tier, **engine},
        },
        runs=folder / "runs",
        listener=listen,
    )
    import workloads  # imports torch, as the run has

    # From the end of one round to the end of the next: what is stored of it is included.
    print(workloads.figures(stamps, **result.stored.facts["execution"]))


if __name__ == "__main__":
    main()
