"""A bare PyTorch loop in one process: one client after another, all data on the device.

python bare.py FOLDER WORKLOAD ROUNDS DEVICE: prints `workloads.figures`.
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import workloads
from floor import train


def main() -> None:
    """Run and print."""
    folder, name, rounds, device = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    size = workloads.SIZES[name]
    clients = [
        tuple(part.to(device) for part in workloads.examples(folder, name, client))
        for client in range(size["clients"])
    ]
    module = workloads.model(name).to(device)
    parameters = [p.data for p in module.parameters()]
    shared = [p.clone() for p in parameters]
    total = [torch.zeros_like(p) for p in parameters]
    stamps = [perf_counter()]
    for number in range(rounds):
        stream = np.random.default_rng(number)
        for client in stream.choice(size["clients"], size["cohort"], replace=False).tolist():
            torch._foreach_copy_(parameters, shared)
            train(module, *clients[client], "sgd")
            torch._foreach_add_(total, parameters)
        torch._foreach_copy_(shared, torch._foreach_div(total, size["cohort"]))
        torch._foreach_zero_(total)
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(perf_counter())
    print(workloads.figures(stamps))


if __name__ == "__main__":
    main()
