"""Accuracy and bytes of every code of updates, in the setting of FedLab's table of compression.

python benchmarks/compression.py [--data digits|mnist] [--rounds 50] [--only REGEX]
                                 [--results FILE] [--write]

FedLab's README (Zeng et al., "FedLab: a flexible federated learning framework", JMLR 2023) has
MNIST on 100 clients, Dirichlet(0.5), 10 in a round, 5 epochs of full batches at rate 0.1, an MLP,
200 rounds: none 93.14 % in 302.5 MB; QSGD of 4, 8, 16 bits 93.03, 93.27, 93.11 % in 45.6, 85.1,
160.7 MB; top-k of 5, 10, 20 % 11.35, 61.25, 89.96 % in 0.94, 1.89, 3.79 MB, without error feedback.
Bytes here are those that clients sent, measured on what was encoded, of the run's whole length.
`--data`: "mnist" is that setting; "digits" has 30 clients with as many images each, and is quick.
`--results`: where each row is kept, and those of earlier sittings are found. `--write`: put the
table into the page of methods.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import page

import fedsim

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
DATA = {
    "mnist": ("data.name=mnist", "partition.clients=100", "model.hidden=[200]"),
    "digits": ("data.name=digits", "partition.clients=30", "model.hidden=[64]"),
}
SETTING = (
    "partition.name=dirichlet",
    "partition.alpha=0.5",
    "model.name=mlp",
    "local.epochs=5",
    "local.batch_size=0",
    "optimizer.lr=0.1",
    "optimizer.momentum=0",
    "rounds.cohort=10",
    "evaluation.federated_every=0",
    "evaluation.central_every=10",
    "engine.grid=inprocess",
    "engine.tier=resident",
    "storage.report=false",
)
ROWS = {
    "unchanged": (),
    "float16": (),
    "bfloat16": (),
    "int8": (),
    "qsgd, 4 bits": ("bits=4",),
    "qsgd, 8 bits": ("bits=8",),
    "qsgd, 4 bits, elias": ("bits=4", "bucket=4096", "coding=elias"),
    "topk, 5 %": ("fraction=0.05", "feedback=none"),
    "topk, 10 %": ("fraction=0.1", "feedback=none"),
    "topk, 20 %": ("fraction=0.2", "feedback=none"),
    "topk, 5 %, fed back": ("fraction=0.05",),
    "topk, 10 %, fed back": ("fraction=0.1",),
    "topk, 20 %, fed back": ("fraction=0.2",),
    "randomk, 10 %": ("fraction=0.1",),
    "randomk-shared, 10 %": ("fraction=0.1",),
    "randomk-shared, 10 %, fed back": ("fraction=0.1", "feedback=ef"),
    "signsgd": (),
    "ef-signsgd": (),
    "ef-signsgd, forgotten": ("feedback=none",),
    "powersgd, rank 2": ("rank=2",),
    "powersgd, rank 2, forgotten": ("rank=2", "feedback=none"),
    "drive": (),
    "eden, 2 bits": ("bits=2",),
    "eden, 4 bits": ("bits=4",),
    "lora, rank 8": ("rank=8", "others=trained"),
    "pruning, 90 %": ("sparsity=0.9",),
}


def main() -> None:
    """Run what is asked for, keep it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", choices=DATA)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", default="")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    results = given.results or Path(tempfile.mkdtemp()) / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    for name, options in ROWS.items():
        key = f"{name}/{given.data}/{given.rounds}"
        if key not in known and re.search(given.only, name):
            known[key] = measured(name, (*options, *DATA[given.data]), given.rounds)
            results.write_text(json.dumps(known, indent=1))
            print(name, known[key], file=sys.stderr, flush=True)
    text = table(known, f"{given.data}/{given.rounds}")
    print(text)
    if given.write:
        page.put("compression", text, PAGE)


def measured(name: str, options: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Return the accuracy after the last round, the megabytes of all rounds, and the seconds."""
    part = name.split(",")[0]
    settings = [*SETTING, f"rounds.count={rounds}", f"transform.name={part}"]
    settings += [o if "." in o.split("=")[0] else f"transform.{o}" for o in options]
    if part == "signsgd":
        settings.append("strategy.lr=0.003")
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        history = fedsim.run("digits", settings, runs=folder).history
    return {
        "accuracy": 100 * history[-1]["metrics"]["test/accuracy"],
        "up": sum(entry["bytes_up"] for entry in history) / 1e6,
        "seconds": time.process_time() - started,
    }


def table(known: dict[str, dict[str, float]], setting: str) -> str:
    """Return the rows of a setting that are there, as Markdown."""
    whole = known.get(f"unchanged/{setting}", {}).get("up", float("nan"))
    lines = ["| transform | accuracy, % | MB sent | of plain |", "|---|---|---|---|"]
    for name in ROWS:
        if row := known.get(f"{name}/{setting}"):
            up = row["up"]
            lines.append(f"| {name} | {row['accuracy']:.2f} | {up:.2f} | {up / whole:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
