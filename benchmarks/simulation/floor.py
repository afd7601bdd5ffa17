"""The floor: a bare PyTorch loop in persistent processes, one partial sum each.

python floor.py FOLDER WORKLOAD ROUNDS [sgd|adam]: prints `workloads.figures`.
"""

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.multiprocessing as mp
import workloads
from torch.nn import functional

PROCESSES = 2


def train(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: str) -> None:
    """Train as one would by hand."""
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    lr = workloads.LR if optimizer == "sgd" else 0.001
    steps = kind(module.parameters(), lr=lr)
    module.train()
    for start in range(0, len(x), workloads.BATCH):
        own = slice(start, start + workloads.BATCH)
        steps.zero_grad()
        functional.cross_entropy(module(x[own]), y[own]).backward()
        steps.step()


def work(
    folder: Path, name: str, optimizer: str, shared: list, total: list, end: Connection
) -> None:
    """Train the clients it is told to and add their models up."""
    torch.set_num_threads(1)
    module = workloads.model(name)
    parameters = [p.data for p in module.parameters()]
    while (clients := end.recv()) is not None:
        torch._foreach_zero_(total)
        for client in clients:
            torch._foreach_copy_(parameters, shared)
            train(module, *workloads.examples(folder, name, client), optimizer)
            torch._foreach_add_(total, parameters)
        end.send(len(clients))


def main() -> None:
    """Run and print."""
    folder, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    optimizer = sys.argv[4] if len(sys.argv) > 4 else "sgd"
    size = workloads.SIZES[name]
    shared = [p.detach().clone().share_memory_() for p in workloads.model(name).parameters()]
    context, ends, totals = mp.get_context("spawn"), [], []
    for _ in range(PROCESSES):
        mine, theirs = context.Pipe()
        total = [torch.zeros_like(p).share_memory_() for p in shared]
        arguments = (folder, name, optimizer, shared, total, theirs)
        context.Process(target=work, args=arguments, daemon=True).start()
        ends.append(mine)
        totals.append(total)
    stamps = [perf_counter()]
    for number in range(rounds):
        stream = np.random.default_rng(number)
        cohort = stream.choice(size["clients"], size["cohort"], replace=False).tolist()
        for i, end in enumerate(ends):
            end.send(cohort[i::PROCESSES])
        for end in ends:
            end.recv()
        for parts in zip(shared, *totals, strict=True):
            parts[0].copy_(sum(parts[1:]) / size["cohort"])
        stamps.append(perf_counter())
    for end in ends:
        end.send(None)
    print(workloads.figures(stamps))


if __name__ == "__main__":
    main()
