"""Many small clients on one GPU: our tiers, pfl-research and a bare loop, and the GPU's limits.

python benchmarks/gpu.py [--cycles 3] [--cohorts 50 1000] [--pfl PYTHON] [--only REGEX]
                         [--save FILE] [--load FILE ...] [--write] [--device cpu] [--small]

The CNN of pfl-research's CIFAR10 benchmark (`simulation/workloads.py`, W1): 1000 clients of 50
random images, batches of 10, one local epoch of SGD. Engines take turns, each in processes of its
own; what is compared is compared within a cycle. The options are those of `simulation/run.py`.
Without a GPU it exits with 3; `--device cpu --small` runs the same with a few clients on a CPU, to
see that everything runs.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "simulation")]
import measuring  # noqa: E402 - found by the line above
import page  # noqa: E402
import roofline  # noqa: E402
import tables  # noqa: E402
import workloads  # noqa: E402
from tables import Engine  # noqa: E402

COHORTS, WORKERS = (50, 1000), (1, 2, 4)
BLOCKS = {50: (5, 10, 25, 50), 1000: (10, 50, 100, 250, 500)}
ROUNDS = {50: 21, 1000: 5}
SMALL = {"clients": 6, "each": 12}
TARGET = 10.0  # times pfl's clients per second


def engines(cohorts: Sequence[int], device: str, sizes: Mapping[str, int]) -> list[Engine]:
    """List all rows."""
    found = []
    for cohort in cohorts:
        environment = {"FEDSIM_BENCH_SIZES": json.dumps({"W1": {**sizes, "cohort": cohort}})}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        rows = {
            "bare loop": ("bare.py", device),
            tables.PFL: ("peer_pfl.py",),
            "fedsim, auto": _ours("auto", device, {"workers": None}),
        }
        for workers in WORKERS:
            shared = _workers(workers, device)
            rows[f"fedsim, resident, {_count(workers)}"] = _ours("resident", device, shared)
        for block in BLOCKS.get(cohort, (max(1, cohort // 2),)):
            at_once = {**_workers(1, device), "block_size": block}
            rows[f"fedsim, vectorized {block}, 1 worker"] = _ours("vectorized", device, at_once)
        for workers in WORKERS[1:]:
            block = min(250, -(-cohort // workers))
            shared = {**_workers(workers, device), "block_size": block}
            label = f"fedsim, vectorized {block}, {_count(workers)}"
            rows[label] = _ours("vectorized", device, shared)
        found += [
            Engine(
                "W1",
                f"cohort {cohort}, {label}",
                command,
                ROUNDS.get(cohort, 2),
                floor=f"cohort {cohort}, bare loop",
                processes=1,
                environment=environment,
            )
            for label, command in rows.items()
        ]
    return found


def _ours(tier: str, device: str, engine: Mapping[str, Any]) -> tuple[str, ...]:
    return ("ours.py", tier, "sgd", json.dumps({"device": device, **engine}))


def _workers(workers: int, device: str) -> dict[str, Any]:
    """Say how many workers share the GPU; one needs no Ray."""
    if workers == 1:
        return {"grid": "inprocess", "workers": None}
    return {"workers": workers} | ({"gpus_per_worker": 1 / workers} if device == "cuda" else {})


def _count(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def chosen(rows: Sequence[Engine], only: str, pfl: str | None) -> list[Engine]:
    """Choose the rows to measure; pfl only where its interpreter is known."""
    wanted = [row for row in rows if re.search(only, row.label)]
    return [row for row in wanted if pfl or not row.label.endswith(tables.PFL)]


def table(
    rows: Sequence[Engine], records: Sequence[tables.Record], limit: roofline.Limits
) -> list[str]:
    """Return the table: medians of all cycles, speed-ups cycle by cycle."""
    head = ["engine", "cycles", "s/round", "clients/s", "x bare loop", "x pfl (each cycle)"]
    head += ["GPU %", "start-up s", "peak MB", "chosen", "of fp32 limit", "of TF32 limit"]
    lines = []
    for row in rows:
        own = [record for record in records if record["name"] == row.name]
        if not own:
            continue
        cohort = _cohort(row)
        median = tables.median(own, "median")
        busy = [record["gpu"] for record in own if record.get("gpu") is not None]
        lines.append(
            [
                row.label,
                str(len(own)),
                f"{median:.4f}",
                f"{cohort / median:.0f}",
                tables.middle(tables.ratios(records, f"W1 {row.floor}", row.name)),
                tables.each(tables.ratios(records, _pfl(cohort), row.name)),
                f"{statistics.median(busy):.0f}" if busy else "n/a",
                f"{tables.median(own, 'start_up'):.1f}",
                f"{tables.median(own, 'memory'):.0f}",
                tables.chosen(own),
                *limit.reached(median / cohort),
            ]
        )
    return page.table(head, lines)


def required(rows: Sequence[Engine], records: Sequence[tables.Record]) -> list[str]:
    """Return how many times as fast as pfl we are, by default and at best, and whether enough."""
    lines = []
    for cohort in dict.fromkeys(map(_cohort, rows)):
        ours = [row.name for row in rows if f"cohort {cohort}, fedsim" in row.label]
        speed = {name: tables.ratios(records, _pfl(cohort), name) for name in ours}
        known = {name: statistics.median(each) for name, each in speed.items() if each}
        if not known:
            lines.append(f"- cohort {cohort}, ours to pfl (target {TARGET:g}): not measured")
            continue
        auto, best = f"W1 cohort {cohort}, fedsim, auto", max(known, key=known.__getitem__)
        for name in dict.fromkeys([name for name in (auto, best) if name in known]):
            verdict = "PASS" if known[name] >= TARGET else "FAIL"
            times = f"{tables.each(speed[name])} times as fast as pfl"
            lines.append(f"- {name[3:]}: {times} (target {TARGET:g}) {verdict}")
    return lines


def _cohort(row: Engine) -> int:
    return int(row.label.split(",")[0].split()[1])


def _pfl(cohort: int) -> str:
    return f"W1 cohort {cohort}, {tables.PFL}"


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--cohorts", type=int, nargs="+")
    parser.add_argument("--pfl")
    parser.add_argument("--only", default="")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path, action="append", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.small and (arguments.save or arguments.load or arguments.write):
        parser.error("--small measures nothing worth keeping: no --save, --load or --write")
    if arguments.device == "cuda" and arguments.cycles and not roofline.has_gpu():
        print("torch sees no CUDA device here; --device cpu --small tries everything on a CPU")
        raise SystemExit(3)
    sizes = SMALL if arguments.small else {}
    workloads.SIZES["W1"] |= sizes  # as the engines are told
    cohorts = arguments.cohorts or ((4,) if arguments.small else COHORTS)
    rows = engines(cohorts, arguments.device, sizes)
    records, failed = measuring.load(arguments.load), []
    if arguments.cycles:
        with roofline.Utilization(arguments.device) as busy:
            measured, failed = measuring.take_turns(
                chosen(rows, arguments.only, arguments.pfl),
                arguments.cycles,
                arguments.pfl,
                arguments.save,
                prepare=measuring.make_data if arguments.small else measuring.deal_out,
                also=lambda record: {"gpu": busy.during(record), "device": arguments.device},
            )
        records += measured
    limit = roofline.limits(arguments.device, "W1")
    lines = [*table(rows, records, limit), "", *required(rows, records), *limit.lines()]
    print("\n".join(lines))
    if arguments.write:
        page.put("gpu", "\n".join(lines))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
