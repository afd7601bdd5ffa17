"""Whether torch.compile and CUDA graphs would help: training steps with them and without.

python benchmarks/compiled.py [--repeats 9] [--device cpu] [--write]

One client of W1 (`simulation/workloads.py`: the CNN, five steps) and a stack of 128 clients of W2
(the MLP, two steps by `vmap`), one thread, all ways in turns; ratios are taken within each turn.
On a GPU "CUDA graphs" is `torch.compile(mode="reduce-overhead")`.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "simulation")]
import page  # noqa: E402 - found by the line above
import workloads  # noqa: E402

STACKED = 128
PLAIN = "as it is"

Parameters = dict[str, Tensor]
#: (parameters, inputs, targets) -> gradients.
Gradients = Callable[[Parameters, Tensor, Tensor], Parameters]
Work = tuple[Gradients, Parameters, Tensor, Tensor]
Wrap = Callable[[Any], Any]


def loss(module: nn.Module, parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of a batch."""
    return nn.functional.cross_entropy(functional_call(module, parameters, (x,)), y)


def one_client(device: torch.device, wrap: Wrap) -> Work:
    """Return how to differentiate W1's model on a batch, and one client's batches."""
    module = workloads.model("W1").to(device)
    wrapped = wrap(partial(loss, module))

    def gradients(parameters: Parameters, x: Tensor, y: Tensor) -> Parameters:
        own = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        found = torch.autograd.grad(wrapped(own, x, y), list(own.values()))
        return dict(zip(own, found, strict=True))

    x = torch.randn(5, workloads.BATCH, 3, 32, 32, device=device)
    y = torch.randint(10, (5, workloads.BATCH), device=device)
    return gradients, {n: p.detach() for n, p in module.named_parameters()}, x, y


def stack(device: torch.device, wrap: Wrap) -> Work:
    """Return how to differentiate W2's models on a batch each, and their batches."""
    module = workloads.model("W2").to(device)
    gradients = wrap(vmap(grad(partial(loss, module))))
    x = torch.randn(2, STACKED, workloads.BATCH, 784, device=device)
    y = torch.randint(10, (2, STACKED, workloads.BATCH), device=device)
    parameters = {
        name: p.detach().expand(STACKED, *p.shape).clone() for name, p in module.named_parameters()
    }
    return gradients, parameters, x, y


def seconds(gradients: Gradients, parameters: Parameters, x: Tensor, y: Tensor) -> float:
    """Train with SGD; return how long it took."""
    own = {name: p.clone() for name, p in parameters.items()}
    started = perf_counter()
    for batch, targets in zip(x, y, strict=True):
        found = gradients(own, batch, targets)
        torch._foreach_add_(list(own.values()), list(found.values()), alpha=-workloads.LR)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started


def rows(device: torch.device, repeats: int) -> list[list[str]]:
    """Measure all ways in turns."""
    found = []
    for label, made in (("W1, one client", one_client), ("W2, 128 clients", stack)):
        wraps: dict[str, Wrap] = {PLAIN: lambda function: function, "compiled": torch.compile}
        if device.type == "cuda":
            wraps["CUDA graphs"] = partial(torch.compile, mode="reduce-overhead")
        ways = {name: made(device, wrap) for name, wrap in wraps.items()}
        first = {name: seconds(*way) for name, way in ways.items()}
        for way in ways.values():
            seconds(*way)
        turns = [{name: seconds(*way) for name, way in ways.items()} for _ in range(repeats)]
        for name in wraps:
            own = statistics.median(turn[name] for turn in turns)
            ratio = statistics.median(turn[name] / turn[PLAIN] for turn in turns)
            began = f"{first[name]:.0f}" if name != PLAIN else "-"
            found.append([label, name, f"{1000 * own:.1f}", f"{ratio:.2f}", began])
    return found


def main() -> None:
    """Print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = ["", "steps", "ms", "x as it is", "s to compile"]
    text = "\n".join(page.table(head, rows(torch.device(arguments.device), arguments.repeats)))
    print(text)
    if arguments.write:
        page.put("compiled", text)


if __name__ == "__main__":
    main()
