"""A local algorithm that misbehaves on purpose, registered as an installed package would be."""

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch

from fedsim.clients.sgd import Sgd

ENTRY_POINTS = """
[fedsim.clients]
faulty = faulty_part:Faulty
counting = faulty_part:Counting
placed = faulty_part:Placed
"""


def install(folder: Path) -> None:
    """Make `folder` look like a place where a package with these parts is installed."""
    info = folder / "faulty_part-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-part\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "faulty_part.py").write_text(Path(__file__).read_text())


@dataclass(frozen=True, slots=True)
class Faulty:
    """Plain SGD, but the clients in `clients` do `fault` in round `round` (0: in all rounds)."""

    fault: str = "raise"
    clients: tuple[int, ...] = (3,)
    round: int = 0

    def train(self, task, memo, ctx):
        update, memo = Sgd(epochs=1, batch_size=16).train(task, memo, ctx)
        if ctx.client in self.clients and self.round in (0, ctx.round):
            return self._do(update), memo
        return update, memo

    def _do(self, update):
        if self.fault == "raise":
            raise ZeroDivisionError("a defect in the user's own code")
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "sleep":
            time.sleep(60)
        if self.fault == "hang":  # where no signal reaches
            import signal

            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(60)
        values = {"nan": float("nan"), "inf": float("inf"), "huge": 1e9}
        if self.fault in values:
            bad = update.vector.clone()
            bad[5] = values[self.fault]
            return replace(update, vector=bad)
        if self.fault == "shape":
            return replace(update, vector=update.vector[:-1])
        return replace(update, weight=-1.0)


@dataclass(frozen=True, slots=True)
class Counting:
    """Remembers how often it trained; its update is that number."""

    reports: ClassVar = ("count",)
    inner: object = field(default=None)

    def train(self, task, memo, ctx):
        from fedsim.core import Update

        count = memo.get("count", torch.zeros(1)) + 1
        vector = torch.full_like(task.model, float(count) * (ctx.client + 1) / 1024).cpu()
        return Update(vector, 1.0, {"count": float(count)}), {"count": count}


@dataclass(frozen=True, slots=True)
class Placed:
    """Plain SGD that notes in `folder` on which Ray node it runs, and waits for a test's deeds.

    In `wait_round` a client on the first node waits for one on another; in `kill_round` one on
    another node asks for its node to be killed, and waits for that.
    """

    folder: str = ""
    wait_round: int = 0
    kill_round: int = 0

    def train(self, task, memo, ctx):
        import ray

        node, folder = ray.get_runtime_context().get_node_id(), Path(self.folder)
        with (folder / "log").open("a") as log:
            log.write(f"{ctx.round} {ctx.client} {node}\n")
        is_first = node == (folder / "first").read_text()
        if is_first and ctx.round == self.wait_round:
            while all(own == node for _, _, own in lines(folder, ctx.round)):
                time.sleep(0.05)
        if not is_first and ctx.round == self.kill_round:
            (folder / f"{os.getppid()}.kill").touch()  # a worker's parent is its raylet
            time.sleep(600)
        return Sgd(epochs=1, batch_size=16).train(task, memo, ctx)


def lines(folder, round):
    """Read what clients noted in a round."""
    rows = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [row for row in rows if row[0] == str(round)]
