"""Engines side by side on the same workloads: interleaved, medians, ratios to the bare loop.

python benchmarks/simulation/run.py [--cycles 3] [--pfl PYTHON] [--flower] [--write]

Each engine runs in processes of its own, two workers of one thread each, one engine after the other
in every cycle. The first round of a run, which pays for starting, does not count. `--pfl`: the
interpreter of an environment with pfl (see `peer_pfl.py`); `--flower`: Flower's own engine too,
minutes for W2; `--write`: put the table into docs/performance.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import workloads

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
MARKS = "<!-- simulation: begin -->", "<!-- simulation: end -->"


@dataclass(frozen=True, slots=True)
class Engine:
    """One row of the table: what is run, on which workload, against which floor."""

    label: str
    workload: str
    command: tuple[str, ...]
    rounds: int
    floor: str = ""


def engines(arguments: argparse.Namespace) -> list[Engine]:
    """List what is to be measured."""
    found = []
    for name, rounds in (("W1", 3), ("W2", 6)):
        found.append(Engine(f"{name} floor", name, ("floor.py", "sgd"), rounds))
        tiers = ("resident",) if name == "W1" else ("low-rank", "vectorized", "resident")
        for tier in tiers:
            found.append(
                Engine(f"fedsim, {tier}", name, ("ours.py", tier), rounds + 1, f"{name} floor")
            )
        if arguments.pfl:
            found.append(
                Engine("pfl-research", name, ("peer_pfl.py",), rounds + 1, f"{name} floor")
            )
        label = "Flower app, unmodified, on "
        found.append(Engine(f"{label}fedsim", name, ("app.py", "fedsim"), rounds, f"{name} floor"))
        if arguments.flower:
            flower = ("app.py", "flower")
            found.append(Engine(f"{label}Flower", name, flower, 3, f"{name} floor"))
    adam = "W2 floor, Adam"
    found.append(Engine(adam, "W2", ("floor.py", "adam"), 4))
    found.append(
        Engine("fedsim, vectorized, Adam", "W2", ("ours.py", "vectorized", "adam"), 5, adam)
    )
    return found


def measure(engine: Engine, folder: Path, pfl: str | None) -> float:
    """Run an engine once; return its median seconds per round, the first left out."""
    script, *options = engine.command
    start = [sys.executable]
    if script == "peer_pfl.py":
        start = [str(pfl), "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, str(HERE / script), str(folder), engine.workload, str(engine.rounds), *options],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)]),
            "FEDSIM_BENCH": str(folder),
            "FEDSIM_WORKLOAD": engine.workload,
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("[", "{"))]
    if not lines:  # pfl prints its figures and then aborts while torch shuts down
        raise SystemExit(f"{engine.label}: {done.stderr[-3000:]}")
    found = json.loads(lines[-1])
    seconds = found["seconds"] if isinstance(found, dict) else found
    return statistics.median(seconds[1:])


def register(folder: Path) -> None:
    """Make `ours.Noise` a data set, as an installed package would."""
    info = folder / "fedsim_bench-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedsim-bench\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fedsim.data]\nnoise = ours:Noise\n")


def table(rows: list[Engine], seconds: dict[str, list[float]]) -> str:
    """Return the table: medians, clients per second, and ratios to the floor cycle by cycle."""
    lines = [
        "| workload | engine | s/round | clients/s | x floor (each cycle) |",
        "|---|---|---|---|---|",
    ]
    for engine in rows:
        own = seconds[engine.label + engine.workload]
        median = statistics.median(own)
        ratio = "1"
        if engine.floor:
            floors = seconds[engine.floor + engine.workload]
            each = [a / b for a, b in zip(own, floors, strict=True)]
            ratio = f"{statistics.median(each):.2f} ({' '.join(f'{r:.2f}' for r in each)})"
        label = engine.label.replace(f"{engine.workload} floor", "floor: bare PyTorch loop")
        speed = workloads.SIZES[engine.workload]["cohort"] / median
        lines.append(f"| {engine.workload} | {label} | {median:.3f} | {speed:.0f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--pfl")
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows = [e for e in engines(arguments) if arguments.only in f"{e.workload} {e.label}"]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        register(folder)
        for workload in sorted({engine.workload for engine in rows}):
            workloads.make_data(folder, workload)
        for cycle in range(arguments.cycles):
            for engine in rows:
                found = measure(engine, folder, arguments.pfl)
                seconds.setdefault(engine.label + engine.workload, []).append(found)
                print(f"{cycle + 1} {engine.workload} {engine.label}: {found:.3f}", file=sys.stderr)
    text = table(rows, seconds)
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
        whole = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
        PAGE.write_text(re.sub(pattern, lambda _: whole, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
