"""Local DP-SGD: milliseconds per client of six ways on a CNN, and of blocks of clients at once.

python benchmarks/dp_sgd.py [cycles] [alone | blocks] [--sittings FILE] [--write]

Alone: one client has 50 images of 3 x 32 x 32, five batches of 10, a CNN of 1.63 M parameters, one
thread; in a cycle each way trains five such clients in a row. Medians over the cycles; ratios are
taken within each cycle. Ours run in a process set up as our workers are
(`environment.keep_freed_memory`), on the module as runs prepare it (dropout of counter-based
streams, convolutions channels last); Opacus and the bare loop in one as it comes, on the module as
it comes. "Plain" is the bare loop, as in every other table; ratios to our own plain training stand
beside it.

Blocks: clients of 20 examples in batches of 10, "DP-SGD, ours, one by one" against "DP-SGD,
vectorized over clients" (`engine.tier=vectorized`), and how many examples padding adds.

`--sittings`: a file of what was measured of one client before, to which this is added; the tables
are of all. `--write`: put the tables into docs/performance.md.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from fedsim import dropout, environment, losses
from fedsim.clients.dp_sgd import DpSgd
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.models import arrange, get_vector, set_vector
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy.clipping import factors
from fedsim.vectorized.block import train_block
from fedsim.vectorized.clipped import fit_clipped

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "simulation")]
import floor  # noqa: E402 - found by the line above
import page  # noqa: E402
import workloads  # noqa: E402
from workloads import BATCH, LR  # noqa: E402

CLIPPING_NORM, NOISE, EXAMPLES = 1.0, 1.0, 50
WARM_UP, IN_A_ROW = 6, 5  # clients before the first that counts; clients timed together
SMALL = 20  # examples of a client in a block


def bare(task: Task) -> Callable[[int], None]:
    """Return plain training as one would write it by hand: the floor of the other tables."""

    def run(_: int) -> None:
        set_vector(task.module, task.model)
        floor.train(task.module, task.x, task.y, "sgd")

    return run


def ours(task: Task, local: LocalSgd | DpSgd) -> Callable[[int], None]:
    """Return one client's training by one of our local algorithms."""

    def run(number: int) -> None:
        set_vector(task.module, task.model)
        local.train(task, {}, ClientContext(0, 1, number))

    return run


def user_level(task: Task) -> Callable[[int], None]:
    """Return plain training with the whole update clipped."""
    local = LocalSgd(batch_size=BATCH)

    def run(number: int) -> None:
        set_vector(task.module, task.model)
        update, _ = local.train(task, {}, ClientContext(0, 1, number))
        norm = torch.linalg.vector_norm(update.vector)
        update.vector.mul_(factors(norm, CLIPPING_NORM))

    return run


def opacus(task: Task, mode: str) -> Callable[[int], None]:
    """Return what a user of Opacus does for each client: `make_private` on its data."""
    from opacus import PrivacyEngine

    data = torch.utils.data.TensorDataset(task.x, task.y)

    def run(number: int) -> None:
        module = workloads.w1()
        set_vector(module, task.model)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
        criterion = nn.CrossEntropyLoss()
        made = PrivacyEngine().make_private(
            module=module,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=NOISE,
            max_grad_norm=CLIPPING_NORM,
            criterion=criterion,
            grad_sample_mode=mode,
        )
        module, optimizer, *others, loader = made
        criterion = others[0] if others else criterion
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).backward()
            optimizer.step()

    return run


def task_of(*, is_ours: bool) -> Task:
    """Return the client's task, its module prepared as in runs or as it comes."""
    module = workloads.w1()
    if is_ours:
        module = dropout.replace_dropout(module)
        arrange(module, torch.zeros(2, 3, 32, 32))
    x, y = torch.randn(EXAMPLES, 3, 32, 32), torch.randint(10, (EXAMPLES,))
    loss = losses.LOSSES["cross_entropy"]
    return Task(module, get_vector(module), x, y, loss, Sgd(lr=LR))


PLAIN, OURS_PLAIN = "plain SGD, a bare PyTorch loop", "plain SGD, ours"
USER, OURS = "plain SGD, ours, and user-level clipping of the update", "**DP-SGD, ours**"
MAKE_PRIVATE, GHOST = "Opacus 1.6, `make_private` for each client", "Opacus 1.6, ghost clipping"
WAYS: dict[str, Callable[[Task], Callable[[int], None]]] = {
    PLAIN: bare,
    OURS_PLAIN: lambda task: ours(task, LocalSgd(batch_size=BATCH)),
    USER: user_level,
    OURS: lambda task: ours(task, DpSgd(CLIPPING_NORM, NOISE, batch_size=BATCH)),
    MAKE_PRIVATE: lambda task: opacus(task, "hooks"),
    GHOST: lambda task: opacus(task, "ghost"),
}
AS_IT_COMES = (PLAIN, MAKE_PRIVATE, GHOST)


def work(connection: Connection, *, is_ours: bool) -> None:
    """Time whatever is asked for, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if is_ours:
        environment.keep_freed_memory()
    task, ready = task_of(is_ours=is_ours), {}
    while (asked := connection.recv()) is not None:
        name, number = asked
        if name not in ready:
            ready[name] = WAYS[name](task)
            for other in range(WARM_UP):  # loads what is loaded on first use; batches vary in size
                ready[name](1000 + other)
        started = perf_counter()
        for client in range(IN_A_ROW):
            ready[name](IN_A_ROW * number + client)
        connection.send((perf_counter() - started) / IN_A_ROW)


HEAD_OF_BLOCKS = ["", "one by one, ms/client", "vectorized, ms/client", "x faster", "padding"]
BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 784-64-10, 64 clients": (workloads.w2, (784,), 64),
    "CNN of 1.63 M parameters, 8 clients": (workloads.w1, (3, 32, 32), 8),
}


def block_of(name: str) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Return a block's training one by one and at once; the latter returns its padding."""
    build, shape, clients = BLOCKS[name]
    module = dropout.replace_dropout(build())
    x, y = torch.randn(clients * SMALL, *shape), torch.randint(10, (clients * SMALL,))
    loss, local = losses.LOSSES["cross_entropy"], DpSgd(CLIPPING_NORM, NOISE, batch_size=BATCH)
    whole = Task(module, get_vector(module), x, y, loss, Sgd(lr=LR))
    parts = zip(x.split(SMALL), y.split(SMALL), strict=True)
    tasks = [replace(whole, x=own, y=labels) for own, labels in parts]

    def contexts(number: int) -> list[ClientContext]:
        return [ClientContext(0, number, client) for client in range(clients)]

    def one_by_one(number: int) -> float:
        total = torch.zeros_like(whole.model)
        for task, ctx in zip(tasks, contexts(number), strict=True):
            set_vector(module, whole.model)
            total += local.train(task, {}, ctx)[0].vector
        return 1.0

    def at_once(number: int) -> float:
        set_vector(module, whole.model)
        sizes, memos = [SMALL] * clients, [{}] * clients
        block = train_block(fit_clipped, whole, local.recipe, sizes, memos, contexts(number))
        (trained,) = list(block)
        trained.change.weighted_sum(torch.ones(clients))
        return trained.padding

    return one_by_one, at_once


def time_blocks(cycles: int, connection: Connection) -> None:
    """Measure blocks both ways, interleaved; send the lines of a table."""
    torch.set_num_threads(1)
    environment.keep_freed_memory()
    rows = []
    for name, (_, _, clients) in BLOCKS.items():
        ways = block_of(name)
        seconds: list[list[float]] = [[], []]
        paddings = []
        for cycle in range(cycles + 1):  # the first loads what is loaded on first use
            for way, own in zip(ways, seconds, strict=True):
                started = perf_counter()
                paddings.append(way(cycle))
                own.append(perf_counter() - started)
        alone, block = (own[1:] for own in seconds)
        ratio = statistics.median(a / b for a, b in zip(alone, block, strict=True))
        each = [1000 * statistics.median(own) / clients for own in (alone, block)]
        ms = [f"{value:.2f}" for value in each]
        rows.append([name, *ms, f"**{ratio:.2f}**", f"{max(paddings):.2f}"])
    connection.send(page.table(HEAD_OF_BLOCKS, rows))


def time_alone(cycles: int) -> dict[str, list[float]]:
    """Return the seconds that one client's training took in every way, by cycle."""
    context = get_context("spawn")
    ends = {}
    for is_ours in (True, False):
        ends[is_ours], theirs = context.Pipe()
        options = {"is_ours": is_ours}
        context.Process(target=work, args=(theirs,), kwargs=options, daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for cycle in range(cycles):
        for name in WAYS:
            end = ends[name not in AS_IT_COMES]
            end.send((name, cycle))
            seconds[name].append(end.recv())
    for end in ends.values():
        end.send(None)
    return seconds


def pooled(file: Path, seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Add a sitting to a file; return the seconds of all that are there, one after the other."""
    with file.open("a") as sittings:
        sittings.write(json.dumps(seconds) + "\n")
    known = [json.loads(line) for line in file.read_text().splitlines()]
    return {name: [each for sitting in known for each in sitting[name]] for name in seconds}


def lines_of(seconds: dict[str, list[float]]) -> list[str]:
    """Return a table of one client's training, and what is required of it."""

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    rows = []
    for name, own in seconds.items():
        ms = f"{1000 * statistics.median(own):.1f}"
        others = [f"{ratio(name, plain):.2f}" for plain in (PLAIN, OURS_PLAIN)]
        rows.append([name, ms, *others, f"{ratio(MAKE_PRIVATE, name):.2f}"])
    head = ["", "ms/client", "x plain", "x plain, ours", "x faster than `make_private`"]
    user = ratio(USER, OURS_PLAIN)
    return [
        *page.table(head, rows),
        "",
        page.verdict("DP-SGD / plain SGD", ratio(OURS, PLAIN), 1.4, ".2f"),
        page.verdict(
            "`make_private` / DP-SGD", ratio(MAKE_PRIVATE, OURS), 3.5, ".2f", is_least=True
        ),
        page.verdict("user-level clipping / plain SGD, ours", user, 1.05, ".2f"),
    ]


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cycles", type=int, nargs="?", default=9)
    parser.add_argument("parts", nargs="*", default=["alone", "blocks"])
    parser.add_argument("--sittings", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    made = {}
    if "alone" in arguments.parts:
        seconds = time_alone(arguments.cycles)
        if arguments.sittings:
            seconds = pooled(arguments.sittings, seconds)
        made["dp-sgd"] = lines_of(seconds)
    if "blocks" in arguments.parts:
        context = get_context("spawn")
        end, theirs = context.Pipe()
        context.Process(target=time_blocks, args=(arguments.cycles, theirs), daemon=True).start()
        made["dp-sgd-blocks"] = end.recv()
    for name, lines in made.items():
        print("\n".join(lines), end="\n\n")
        if arguments.write:
            page.put(name, "\n".join(lines))


if __name__ == "__main__":
    main()
