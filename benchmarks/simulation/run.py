"""Engines side by side on the same workloads: interleaved, medians, ratios to the bare loop.

python benchmarks/simulation/run.py [--cycles 3] [--pfl PYTHON] [--flower] [--only REGEX]
                                    [--save FILE] [--load FILE ...] [--write [NAME]] [--small]

Each engine runs in processes of its own, two workers of one thread each, one engine after the other
in every cycle. The first round of a run, which pays for starting, does not count. `--pfl`: the
interpreter of an environment with pfl (see `peer_pfl.py`); `--flower`: Flower's own engine too,
minutes for W2; `--only`: rows whose "W1 label" the expression finds, and their floors; `--save`:
append every measurement to a file as soon as it is there; `--load`: add those of earlier sittings
(`--cycles 0` measures nothing); `--write`: put the tables into docs/performance.md, between the
marks "simulation" or others; `--small`: few clients, to see that everything runs.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import measuring  # noqa: E402 - found by the line above
import page  # noqa: E402
import tables  # noqa: E402
from tables import Engine  # noqa: E402

SMALL = '{"W1": {"clients": 10, "cohort": 4}, "W2": {"clients": 100, "cohort": 40}}'


def engines() -> list[Engine]:
    """List all rows."""
    found = []
    for name, rounds in (("W1", 6), ("W2", 30)):
        found.append(Engine(name, "floor", ("floor.py", "sgd"), rounds))
        for tier in ("auto", "low-rank", "vectorized", "resident", "messages"):
            if (name, tier) != ("W1", "low-rank"):
                found.append(Engine(name, f"fedsim, {tier}", ("ours.py", tier), rounds + 1))
        found.append(Engine(name, tables.PFL, ("peer_pfl.py",), rounds + 1))
        found.append(Engine(name, tables.ON_FEDSIM, ("app.py", "fedsim"), rounds))
        found.append(Engine(name, tables.FLOWER, ("app.py", "flower"), 3))
    adam = "floor, Adam"
    found.append(Engine("W2", adam, ("floor.py", "adam"), 10, floor=adam))
    ours = ("ours.py", "vectorized", "adam")
    found.append(Engine("W2", "fedsim, vectorized, Adam", ours, 11, floor=adam))
    return found


def chosen(rows: Sequence[Engine], arguments: argparse.Namespace) -> list[Engine]:
    """Choose the rows to measure: those asked for that can be run, and their floors."""
    wanted = [
        row
        for row in rows
        if re.search(arguments.only, row.name)
        and (arguments.pfl or row.label != tables.PFL)
        and (arguments.flower or row.label != tables.FLOWER)
    ]
    floors = {f"{row.workload} {row.floor}" for row in wanted}
    return [row for row in rows if row in wanted or row.name in floors]


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--pfl")
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path, action="append", default=[])
    parser.add_argument("--write", nargs="?", const="simulation")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.small:
        if arguments.save or arguments.load or arguments.write:
            parser.error("--small measures nothing worth keeping: no --save, --load or --write")
        os.environ["FEDSIM_BENCH_SIZES"] = SMALL
    import workloads  # after the switch above

    rows = engines()
    records, failed = measuring.load(arguments.load), []
    if arguments.cycles:
        asked = chosen(rows, arguments)
        measured, failed = measuring.take_turns(
            asked, arguments.cycles, arguments.pfl, arguments.save
        )
        records += measured
    cohorts = {name: size["cohort"] for name, size in workloads.SIZES.items()}
    text = f"{tables.table(rows, records, cohorts)}\n\n{tables.comparisons(records)}"
    print(text)
    if arguments.write:
        page.put(arguments.write, text)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
