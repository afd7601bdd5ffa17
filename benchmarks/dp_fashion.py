"""What privacy costs on Fashion-MNIST: test accuracy at an epsilon, beside the published rows.

python benchmarks/dp_fashion.py [--loop] [--experiment dp-fashion] [--seeds 3] [--only REGEX]
                                [--cache DIR] [--results FILE] [--write]

A linear model on scattering features (docs/data.md), group norm in 27 groups: Tramèr and Boneh,
"Differentially Private Learning Needs Better Features", ICLR 2021. Hyper-parameters are fixed, not
tuned here. Epsilons are those of our accountant. `--loop`: a bare PyTorch loop, no federation,
which says what to expect of ours; else the experiment is run, each time in a run store, hence a
budget, of its own, and rows that it cannot be made into are left out. `--cache`: where features are
kept. `--results`: where each result is kept, and those of earlier sittings are found. `--write`:
put the table into the page of privacy. Noise is seeded, so that the table can be made again: none
of these runs is private.
"""

import argparse
import json
import math
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent))
import page

import fedsim
from fedsim import rng
from fedsim.data import ClientData, default_data_dir, open_clients
from fedsim.data.fashion_mnist import FashionMnist
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.shards import Shards
from fedsim.privacy import matrix
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.blt import buffered
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.separation import cyclic, most_participations

PAGE = Path(__file__).resolve().parents[1] / "docs" / "privacy.md"
USERS, EXAMPLES, COHORT = 6000, 60_000, 600
DELTA_USERS = USERS**-1.1
SEPARATION = USERS // COHORT  # rounds between two of one user, where users come in turn
NORM_GROUPS, CLIPPING_NORM, MOMENTUM = 27, 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Row:
    """One row: who is protected, by how much noise, and how it is trained.

    `members`: "poisson" samples each round, "cyclic" ones in turn. `bands` or `buffers` of the
    noise's correlation. `noise_multiplier`: standard deviation of fresh noise per sensitivity, in
    clipping norms. `target`: the least mean accuracy in percent. `overrides` make the experiment
    this row; None where it cannot be.
    """

    label: str
    unit: Literal["user", "example"]
    epsilon: float
    noise_multiplier: float
    rounds: int
    rate: float
    lr: float
    target: float | None = None
    published: str = ""
    classes_per_user: int | None = None
    members: Literal["poisson", "cyclic"] = "poisson"
    bands: int = 1
    buffers: int = 0
    overrides: tuple[str, ...] | None = None

    @property
    def delta(self) -> float:
        """Return what epsilon is at."""
        return DELTA_USERS if self.unit == "user" else 1e-5

    def releases(self) -> list[Release]:
        """Return what the row is accounted as."""
        if self.members == "cyclic":
            return [Release("matrix", self.noise_multiplier)]
        sampling = Sampling("poisson", rate=self.rate)
        return [Release("gaussian", self.noise_multiplier, sampling, count=self.rounds)]

    def correlation(self) -> matrix.Correlation:
        """Return the noise's correlation: the best for SGD with this momentum."""
        column = matrix.sums(self.rounds, MOMENTUM)
        if self.buffers:
            return buffered(column, self.buffers, SEPARATION)
        return matrix.toeplitz(column, self.bands)

    def deviation(self, correlation: matrix.Correlation) -> float:
        """Return the standard deviation of fresh noise."""
        most = most_participations(self.rounds, SEPARATION)
        own = correlation.sensitivity(most, SEPARATION) if self.members == "cyclic" else 1.0
        return own * self.noise_multiplier * CLIPPING_NORM


#: All examples are one client's; a round is a step of DP-SGD on a Poisson batch.
ONE_CLIENT = (
    "privacy.unit=example",
    "privacy.delta=1e-5",
    "partition.clients=1",
    "rounds.cohort=1",
    "rounds.count=292",
    "local.steps=1",
    "local.batch_size=8190",
    "optimizer.name=sgd",
    "optimizer.lr=1.0",
)


def user(label: str, eps: float, noise_multiplier: float, **changes: Any) -> Row:
    """Return a row of user-level privacy: 6,000 users of 10 examples, FedSGD, 600 a round."""
    settings = {"rounds": 150, "rate": COHORT / USERS, "lr": 4.0} | changes
    return Row(label, "user", eps, noise_multiplier, **settings)


def example(eps: float, noise_multiplier: float, target: float, published: str) -> Row:
    """Return a row of example-level privacy: batches of 8,192, 40 epochs."""
    label = f"example-level, epsilon {eps:g}"
    settings = {"rounds": 292, "rate": 0.1365, "lr": 16.0}
    overrides = (*ONE_CLIENT, f"privacy.epsilon={eps}", f"strategy.lr={settings['lr']}")
    return Row(
        label,
        "example",
        eps,
        noise_multiplier,
        target=target,
        published=published,
        overrides=overrides,
        **settings,
    )


CLIP = ("transform.name=clip", f"transform.clipping_norm={CLIPPING_NORM}")
ROWS = (
    example(3, 3.397, 89.4, "89.7, Tramèr and Boneh"),
    example(1, 8.826, 87.0, ""),
    user("user-level, epsilon 3", 3, 1.765, target=87.4, overrides=()),
    user(
        "user-level, epsilon 3, 2 classes per user",
        3,
        1.765,
        target=87.0,
        classes_per_user=2,
        overrides=("partition.name=shards", "partition.per_client=2"),
    ),
    user("user-level, epsilon 8", 8, 0.972, target=89.2, overrides=("privacy.epsilon=8.0",)),
    user(
        "user-level, no noise",
        math.inf,
        0.0,
        overrides=("privacy.unit=none", "privacy.epsilon=", *CLIP),
    ),
    user(
        "in turn, independent noise",
        3,
        1.2504,
        members="cyclic",
        overrides=("privacy.sampling=cyclic",),
    ),
    user(
        "in turn, correlated noise, 10 bands",
        3,
        1.2504,
        members="cyclic",
        bands=10,
        overrides=("privacy.sampling=cyclic", "privacy.mechanism=matrix"),
    ),
    user("in turn, correlated noise, 1 buffer", 3, 1.2504, members="cyclic", buffers=1),
)


@dataclass(frozen=True, slots=True)
class Data:
    """Normalized features [n, 3969] and labels, and who has which training examples [users, 10]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    members: Tensor


def open_data(row: Row, seed: int, cache: Path) -> Data:
    """Deal the features out as the row says; an example is a user of its own in the other unit."""
    partition = Shards(USERS, row.classes_per_user) if row.classes_per_user else Iid(USERS)
    clients = open_clients(
        FashionMnist(features="scattering"),
        partition,
        seed=seed,
        holdout=0.0,
        data_dir=Path(default_data_dir()),
        cache_dir=cache,
    )
    own = torch.arange(EXAMPLES)[:, None] if row.unit == "example" else _members(clients)
    train, test = clients.data.train, clients.data.test  # type: ignore[attr-defined]
    labels = (torch.from_numpy(np.array(part.y)) for part in (train, test))
    return Data(_normal(train.x), next(labels), _normal(test.x), next(labels), own)


def _members(clients: ClientData) -> Tensor:
    part = clients.train_part  # type: ignore[attr-defined]
    return torch.from_numpy(np.array(part.indices)).reshape(USERS, -1)


def _normal(features: np.ndarray) -> Tensor:
    """Return features after group norm, which learns nothing: once instead of at every step."""
    parts = np.array_split(features, 60)
    return torch.cat(
        [
            functional.group_norm(torch.from_numpy(np.float32(p)), NORM_GROUPS).flatten(1)
            for p in parts
        ]
    )


def clipped_sum(data: Data, members: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum over members of their clipped mean gradients, of weights and of biases.

    Norms come from Gram matrices: the squared norm of sum d_i x_i' is sum of (d_i d_j)(x_i x_j).
    """
    x, y = data.x[members.flatten()], data.y[members.flatten()]
    slope = torch.softmax(x @ weight.T + bias, dim=1)
    slope[torch.arange(len(y)), y] -= 1
    slope /= members.shape[1]
    own_x, own_slope = (t.view(*members.shape, -1) for t in (x, slope))
    gram = torch.bmm(own_x, own_x.transpose(1, 2)) + 1.0
    squares = (gram * torch.bmm(own_slope, own_slope.transpose(1, 2))).sum(dim=(1, 2))
    factor = (CLIPPING_NORM / squares.sqrt()).clamp(max=1.0)
    own_slope *= factor[:, None, None]
    return slope.T @ x, slope.sum(dim=0)


def loop(row: Row, seed: int, cache: Path) -> tuple[float, float]:
    """Train a row in a bare loop; return test accuracy in percent and seconds of training."""
    data = open_data(row, seed, cache)
    population, generator = len(data.members), torch.Generator().manual_seed(seed)
    model = torch.zeros(10 * data.x.shape[1] + 10)
    velocity, correlation = torch.zeros_like(model), row.correlation()
    noise_state, deviation = correlation.begin(model), row.deviation(correlation)
    started = time.perf_counter()
    for step in range(row.rounds):
        chosen = sample(row, population, step, seed)
        weight, bias = model[:-10].view(10, -1), model[-10:]
        parts = clipped_sum(data, data.members[chosen], weight, bias)
        fresh = torch.randn(model.shape, generator=generator) * deviation
        noise, noise_state = correlation.correlate(noise_state, fresh)
        total = torch.cat([parts[0].flatten(), parts[1]]) + noise
        velocity = MOMENTUM * velocity + total / (row.rate * population)
        model -= row.lr * velocity
    seconds = time.perf_counter() - started
    answers = (data.test_x @ model[:-10].view(10, -1).T + model[-10:]).argmax(dim=1)
    return 100 * float((answers == data.test_y).double().mean()), seconds


def sample(row: Row, population: int, step: int, seed: int) -> Tensor:
    """Return who takes part in a step."""
    if row.members == "cyclic":
        order = rng.stream(seed, "cyclic")
        return torch.from_numpy(cyclic(population, COHORT, SEPARATION, step, order))
    coins = rng.stream(seed, "poisson", round=step).random(population)
    return torch.from_numpy(np.flatnonzero(coins < row.rate))


def ours(row: Row, seed: int, cache: Path, experiment: str) -> tuple[float, float]:
    """Run the experiment as a row; return test accuracy in percent and the seconds it took."""
    overrides = [f"seed={seed}", *(row.overrides or ())]
    if not math.isinf(row.epsilon):
        overrides.append("privacy.noise=seeded")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cache").symlink_to(cache.resolve())
        started = time.perf_counter()
        found = fedsim.run(experiment, overrides, runs=folder)
        return 100 * found.metrics["test/accuracy"], time.perf_counter() - started


def table(found: dict[Row, list[tuple[float, float]]]) -> str:
    """Return the results as Markdown."""
    head = ["privacy", "epsilon", "delta", "accuracy, % (seeds)", "target", "published", "s"]
    lines = []
    for row, results in found.items():
        accuracies, seconds = zip(*results, strict=True)
        mean = statistics.mean(accuracies)
        verdict = "" if row.target is None else f"≥ {row.target} "
        if verdict:
            verdict += "PASS" if mean >= row.target else "FAIL"
        spent = epsilon(row.releases(), row.delta, "zero-out")
        each = " ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        cells = [row.label, f"{spent:.2f}", f"{row.delta:.1e}", f"{mean:.2f} ({each})", verdict]
        lines.append([*cells, row.published, f"{statistics.median(seconds):.0f}"])
    return "\n".join(page.table(head, lines))


def earlier(path: Path | None) -> dict[tuple[str, int], tuple[float, float]]:
    """Return the results of earlier sittings by row and seed."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(label, seed): (accuracy, seconds) for label, seed, accuracy, seconds in lines}


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--experiment", default="dp-fashion")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    known = earlier(arguments.results)
    found: dict[Row, list[tuple[float, float]]] = {}
    for row in ROWS:
        can_run = arguments.loop or row.overrides is not None
        if not (can_run and re.search(arguments.only, row.label)):
            continue
        for seed in range(1, arguments.seeds + 1):
            if (row.label, seed) in known:
                result = known[row.label, seed]
            elif arguments.loop:
                result = loop(row, seed, arguments.cache)
            else:
                result = ours(row, seed, arguments.cache, arguments.experiment)
            found.setdefault(row, []).append(result)
            print(f"{row.label}, seed {seed}: {result[0]:.2f} %, {result[1]:.0f} s", flush=True)
            if arguments.results and (row.label, seed) not in known:
                with arguments.results.open("a") as file:
                    file.write(json.dumps([row.label, seed, *result]) + "\n")
    print(table(found))
    if arguments.write:
        page.put("dp-fashion", table(found), PAGE)


if __name__ == "__main__":
    main()
