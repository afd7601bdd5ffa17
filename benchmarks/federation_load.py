"""Many clients on one SuperLink: time, messages, and whether memory stays where it is.

    python benchmarks/federation_load.py [--clients 200] [--rounds 20] [--port 18000]

A real SuperLink with TLS and SuperNode login, and clients that are a SuperNode's loop each
(`superlink.py`); they share this process and its copy of the data, so training costs what it does
in a simulation and the rest is Flower's. The experiment is `digits` with a linear model. Memory is
that of the SuperLink and of what it started (the ServerApp's process), sampled once a second. The
same experiment is then simulated: the last model must be the same, and nobody may be lost.
"""

import argparse
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import psutil
from superlink import Clients, SuperLink, rounds, superlink

import fedsim

MB = 2**20


def experiment(clients: int, count: int) -> list[str]:
    """Return the settings: small rounds, nothing evaluated on clients."""
    return [
        f"partition.clients={clients}", "partition.name=iid", f"rounds.count={count}",
        "model.name=linear", "evaluation.federated_every=0", "rounds.timeout_s=3000",
    ]  # fmt: skip


class Memory:
    """The server's memory, and when it was read, until `stop`."""

    def __init__(self, process: int) -> None:
        self.samples: list[tuple[float, float]] = []
        self._process, self._stop = psutil.Process(process), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            total = 0
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.samples.append((time.monotonic(), total / MB))

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()

    def most(self, start: float, end: float) -> float:
        """Return the most MB between two times."""
        return max((mb for when, mb in self.samples if start <= when <= end), default=float("nan"))


def watched(server: SuperLink, settings: Sequence[str], count: int) -> tuple[list, list, Memory]:
    """Run the experiment; return its rounds, when each was done, and the server's memory."""
    output = server.folder / "rounds.jsonl"
    memory, running = Memory(server.process.pid), server.run(settings, output)
    stamps = [time.monotonic()]
    while len(done := rounds(output)) < count:
        if len(done) >= len(stamps):
            stamps += [time.monotonic()] * (len(done) - len(stamps) + 1)
            now = memory.most(stamps[-2], stamps[-1])
            took = f"{stamps[-1] - stamps[-2]:.1f} s, server {now:.0f} MB, lost {done[-1]['lost']}"
            print(f"round {len(done)}: {took}", file=sys.stderr, flush=True)
        if running.poll() is not None and len(rounds(output)) < count:
            raise RuntimeError(server.logs())
        time.sleep(0.2)
    stamps += [time.monotonic()] * (count - len(stamps) + 1)
    running.wait()
    memory.stop()
    return done, stamps, memory


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run both, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    settings = experiment(options.clients, options.rounds)
    with tempfile.TemporaryDirectory() as name:
        with superlink(Path(name), "127.0.0.1", options.port or free_port()) as server:
            clients = Clients(server.address, server.certificate, options.clients)
            clients.register()
            clients.start()
            try:
                done, stamps, memory = watched(server, settings, options.rounds)
            finally:
                clients.stop()
        here = fedsim.run(
            "digits",
            [*settings, "engine.grid=inprocess", "engine.tier=resident"],
            runs=Path(name) / "runs",
        )
    return report(options.clients, done, stamps, memory, clients, here.history[-1]["model_sha256"])


def report(
    count: int, done: list, stamps: list, memory: Memory, clients: Clients, simulated: str
) -> int:
    """Print the table; return 1 where a client was lost or the models differ."""
    seconds = [end - start for start, end in pairwise(stamps)]
    half = len(seconds) // 2
    first, last = memory.most(stamps[0], stamps[half]), memory.most(stamps[half], stamps[-1])
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lost = sum(entry["lost"] for entry in done)
    same = done[-1]["model_sha256"] == simulated
    print(f"clients {count}, rounds {len(done)}, messages {clients.handled}, lost {lost}")
    print(f"seconds of a round: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}")
    print(f"server's memory: first half {first:.0f} MB, second half {last:.0f} MB")
    print(f"all clients' memory, in one process: {own:.0f} MB, {own / count:.1f} MB a client")
    print(f"model as in a simulation: {'yes' if same else 'NO'}")
    for problem in clients.failed[:10]:
        print(problem)
    return int(bool(lost or not same or clients.failed))


if __name__ == "__main__":
    sys.exit(main())
