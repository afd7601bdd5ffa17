"""Write docs/gallery.md: every method, when to use it, and a run of each on the same data.

python docs/make_gallery.py [RUNS] [ROUNDS]    runs what RUNS has not yet; minutes on two cores
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim import config as configuration
from fedsim import registry
from fedsim.config import catalogue
from fedsim.errors import ConfigError
from fedsim.report.section import bytes_text
from fedsim.store import RunStore
from fedsim.sweep import Cell, Sweep, run_sweep
from fedsim.sweep._cells import named

PAGE = Path(__file__).parent / "gallery.md"
SETTINGS = [
    "partition.name=dirichlet",
    "partition.alpha=0.1",
    "local.epochs=2",
    "evaluation.central_every=5",
    "evaluation.federated_every=10",
    "evaluation.holdout=0.2",
    "engine.grid=inprocess",
    "engine.tier=resident",
    "storage.report=false",
]
TABLES = {
    "strategies": "What the server does",
    "clients": "What clients do",
    "transforms": "What updates become on the wire",
}
WHEN = {
    "fedavg": "always first: the baseline of all others",
    "fedavgm": "rounds pull in different directions",
    "fedadam": "coordinates of very different size: text, embeddings; needs its own rate",
    "fedyogi": "as fedadam, where its steps grow too quickly",
    "fedadagrad": "as fedadam, with sparse updates",
    "fedrmsprop": "as fedadam, without momentum",
    "fedlion": "as fedadam, with half its memory",
    "scaffold": "clients differ and take many steps; the same clients come back",
    "feddyn": "as scaffold, with less traffic down",
    "fednova": "clients do different amounts of work",
    "qfedavg": "the worst-served clients matter",
    "afl": "the worst-served client is what counts",
    "fedbuff": "devices differ in speed by orders of magnitude",
    "fedasync": "as fedbuff, one answer at a time",
    "flower": "you have a strategy written for Flower",
    "coordinate-median": "some clients may lie; cheap",
    "trimmed-mean": "some clients may lie; loses less than the median",
    "krum": "a few clients may lie and the rest are alike",
    "multi-krum": "as krum, averaging those it trusts",
    "bulyan": "many clients, few liars, in many coordinates",
    "rfa": "some clients may lie; the geometric median",
    "centered-clipping": "liars, with momentum on clients",
    "dnc": "liars who work together",
    "bucketing": "clients differ, and a robust rule throws the honest out",
    "nnm": "as bucketing, by neighbours",
    "fltrust": "the server has a little clean data",
    "feddf": "there are public inputs without labels",
    "fedmd": "clients have models of different kinds",
    "ifca": "clients fall into groups",
    "cfl": "clients may fall into groups, and nobody knows",
    "sgd": "always first",
    "fedprox": "clients differ, or do different amounts of work",
    "fedsgd": "traffic costs nothing, or to compare with centralized training",
    "dp-sgd": "to see what privacy costs; `privacy.unit` for the real thing",
    "moon": "images, and features that drift apart",
    "ditto": "each client needs its own model, and some may lie",
    "fedper": "labels differ between clients: the last layer is their own",
    "fedrep": "as fedper, the head trained first",
    "fedbn": "inputs differ between clients: scanners, cameras",
    "pfedme": "each client needs its own model, near the shared one",
    "apfl": "each client's own mixture of both",
    "per-fedavg": "a model that one step adapts",
    "fine-tuning": "the simplest personal model: a few epochs at the end",
    "fml": "clients learn from each other's outputs",
}


def cells(rounds: int) -> tuple[list[tuple[str, str, Cell]], dict[str, str]]:
    """Return a run for each part, and why others have none."""
    found, refused = [], {}
    for group in TABLES:
        for name in registry.names(group):
            if name in ("local-only", "unchanged"):
                continue
            base = configuration.experiment_of(group, name)
            try:
                content = {**_digits(), **{k: v for k, v in base.items() if k in _SECTIONS}}
                config = configuration.load(content, [*_fitting(content), f"rounds.count={rounds}"])
            except ConfigError as error:
                refused[f"{group}/{name}"] = str(error.problems[0])
                continue
            config = replace(config, name=named("gallery", config))
            found.append((group, name, Cell({"part": f"{group}/{name}"}, config)))
    return found, refused


_SECTIONS = ("strategy", "local", "transform", "public")


def _digits() -> dict[str, Any]:
    return configuration.to_dict(configuration.load("digits", (), {}))


def _fitting(content: dict[str, Any]) -> list[str]:
    """Return the settings that a part of this kind takes."""
    kind = registry.load("clients", content["local"]["name"])
    has_epochs = "epochs" in getattr(kind, "__dataclass_fields__", {})
    settings = [s for s in SETTINGS if has_epochs or not s.startswith("local.epochs")]
    strategy = registry.load("strategies", content["strategy"]["name"])
    if getattr(strategy, "schedule", "") == "asynchronous":
        settings.append("devices.name=drawn")  # who arrives first is by the virtual clock
    if content["public"]["name"] != "none":
        settings.append("public.rows=100")
    return settings


def page(store: RunStore, rounds: int) -> str:
    """Return the page, from runs that are there."""
    found, refused = cells(rounds)
    runs = {run.name: run for run in store.all() if run.status == "finished"}
    lines = [
        "# Gallery",
        "",
        "Every method, when to use it, and a run of each on the same data: handwritten digits on",
        "20 clients with few classes each (Dirichlet 0.1), two local epochs, one seed, "
        f"{rounds} rounds,",
        "every other setting at its default. *server*: accuracy of the shared model on the",
        "server's test; *clients*: of what each client uses, on its own held-out examples; *sent",
        "up*: by all clients together. Batches: of 16 with plain `sgd` in the first and the last",
        "table, of 32 elsewhere. One run is no ranking: `fedsim sweep` with seeds and tuned rates",
        "is. A dash: not with this model (`fedbn` needs batch normalization), or no such number.",
        "Written by `docs/make_gallery.py`.",
        "",
    ]
    for group, title in TABLES.items():
        about = {part["name"]: part for part in catalogue(group)}
        lines += [f"## {title}", "", "| name | when | paper | server | clients | sent up |"]
        lines.append("|---|---|---|---|---|---|")
        for kind, name, cell in found:
            if kind == group:
                lines.append(_row(about[name], runs.get(cell.run_name), store))
        for key, why in refused.items():
            if key.startswith(f"{group}/"):
                name = key.split("/")[1]
                lines.append(
                    f"| `{name}` | {_when(about[name])} | {about[name]['paper']} | {why} | | |"
                )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(part: dict[str, Any], run: Any, store: RunStore) -> str:
    metrics = run.summary["metrics"] if run else {}
    shown = [
        f"{metrics[name]:.3f}" if metrics.get(name) is not None else "-"
        for name in ("test/accuracy", "federated/accuracy")
    ]
    sent = bytes_text(run.summary["bytes_up"]) if run else "-"
    head = f"| `{part['name']}` | {_when(part)} | {part['paper'] or '-'}"
    return f"{head} | {' | '.join(shown)} | {sent} |"


def _when(part: dict[str, Any]) -> str:
    """Return when to use a part, or what it is."""
    return WHEN.get(part["name"], part["summary"].rstrip("."))


def main(runs: str, rounds: int) -> None:
    """Run what has not been run, and write the page."""
    found, _ = cells(rounds)
    sweep = Sweep("gallery", {}, [cell for _, _, cell in found])
    run_sweep(sweep, runs=runs, tell=_tell)
    PAGE.write_text(page(RunStore(runs), rounds), encoding="utf-8")


def _tell(outcome: Any, done: int, count: int) -> None:
    sys.stderr.write(f"{done}/{count} {outcome.values['part']}: {outcome.status} {outcome.error}\n")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["runs"]), int(sys.argv[2]) if len(sys.argv) > 2 else 6)
