"""Engines side by side on the same workloads: interleaved, medians, ratios to the bare loop.

python benchmarks/simulation/run.py [--cycles 3] [--pfl PYTHON] [--flower] [--only REGEX]
                                    [--save FILE] [--load FILE ...] [--write] [--small]

Each engine runs in processes of its own, two workers of one thread each, one engine after the other
in every cycle. The first round of a run, which pays for starting, does not count. `--pfl`: the
interpreter of an environment with pfl (see `peer_pfl.py`); `--flower`: Flower's own engine too,
minutes for W2; `--only`: rows whose "W1 label" the expression finds, and their floors; `--save`:
append every measurement to a file as soon as it is there; `--load`: add those of earlier sittings
(`--cycles 0` measures nothing); `--write`: put the tables into docs/performance.md; `--small`: few
clients, to see that everything runs.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import measuring  # noqa: E402 - found by the line above
import page  # noqa: E402
import tables  # noqa: E402
from tables import Engine  # noqa: E402


def engines() -> list[Engine]:
    """List all rows."""
    found = []
    for name, rounds in (("W1", 3), ("W2", 6)):
        found.append(Engine(name, "floor", ("floor.py", "sgd"), rounds))
        for tier in ("auto", "low-rank", "vectorized", "resident", "messages"):
            if (name, tier) != ("W1", "low-rank"):
                found.append(Engine(name, f"fedsim, {tier}", ("ours.py", tier), rounds + 1))
        found.append(Engine(name, tables.PFL, ("peer_pfl.py",), rounds + 1))
        found.append(Engine(name, tables.ON_FEDSIM, ("app.py", "fedsim"), rounds))
        found.append(Engine(name, tables.FLOWER, ("app.py", "flower"), 3))
    adam = "floor, Adam"
    found.append(Engine("W2", adam, ("floor.py", "adam"), 4, floor=adam))
    ours = ("ours.py", "vectorized", "adam")
    found.append(Engine("W2", "fedsim, vectorized, Adam", ours, 5, floor=adam))
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


def measure(engine: Engine, folder: Path, pfl: str | None) -> dict[str, Any]:
    """Run an engine once."""
    script, *options = engine.command
    start = [sys.executable]
    if script == "peer_pfl.py":
        start = [str(pfl), "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for remembered in (folder / "runs" / "cache").glob("tier-*.json"):
        remembered.unlink()  # what choosing a tier takes belongs to starting
    return measuring.watch(
        [*start, str(HERE / script), str(folder), engine.workload, str(engine.rounds), *options],
        folder,
        {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)]),
            "FEDSIM_BENCH": str(folder),
            "FEDSIM_WORKLOAD": engine.workload,
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )


def prepare(rows: Sequence[Engine], folder: Path) -> None:
    """Make the data, and have ours deal them out once in a run that does not count."""
    import workloads

    info = folder / "fedsim_bench-1.dist-info"  # makes `ours.Noise` a data set, as a package would
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedsim-bench\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fedsim.data]\nnoise = ours:Noise\n")
    for workload in sorted({row.workload for row in rows}):
        workloads.make_data(folder, workload)
        if any(row.workload == workload and row.command[0] == "ours.py" for row in rows):
            measure(Engine(workload, "", ("ours.py", "resident"), 2), folder, None)


def sitting(rows: Sequence[Engine], arguments: argparse.Namespace) -> tuple[list[Any], bool]:
    """Measure; return the records and whether every engine ran."""
    records, is_whole = [], True
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(rows, folder)
        for cycle in range(arguments.cycles):
            for row in rows:
                try:
                    found = measure(row, folder, arguments.pfl)
                except measuring.EngineError as error:
                    print(f"{row.name} failed: {error}", file=sys.stderr)
                    is_whole = False
                    continue
                record = {"cycle": f"{began} {cycle + 1}", "name": row.name, **found}
                print(f"{cycle + 1} {row.name}: {found['median']:.3f}", file=sys.stderr)
                records.append(record)
                if arguments.save:
                    with arguments.save.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
    return records, is_whole


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--pfl")
    parser.add_argument("--flower", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path, action="append", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.small:
        if arguments.save or arguments.load or arguments.write:
            parser.error("--small measures nothing worth keeping: no --save, --load or --write")
        os.environ["FEDSIM_BENCH_SMALL"] = "1"
    import workloads  # after the switch above

    rows = engines()
    records = [
        json.loads(line)
        for file in arguments.load
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    is_whole = True
    if arguments.cycles:
        measured, is_whole = sitting(chosen(rows, arguments), arguments)
        records += measured
    cohorts = {name: size["cohort"] for name, size in workloads.SIZES.items()}
    text = f"{tables.table(rows, records, cohorts)}\n\n{tables.comparisons(records)}"
    print(text)
    if arguments.write:
        page.put("simulation", text)
    if not is_whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
