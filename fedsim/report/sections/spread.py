"""Whom it serves: how the metric differs between clients."""

from collections.abc import Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Picture, Section, Table, metric_of, number

__all__ = ["section"]

_BARS = 60


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return the distribution of the last federated evaluation over clients."""
    name, is_up = metric_of(run)
    key = f"federated/{name}"
    rows = [c for c in clients if c["phase"] == "evaluate" and c["metrics"].get(key) is not None]
    if not rows:
        return Section(
            "spread",
            "Across clients",
            None,
            text="No federated evaluation was run (evaluation.federated_every = 0, or no client "
            "holds examples out), so nothing is known about single clients.",
        )
    last = max(row["round"] for row in rows)
    values = {row["client"]: row["metrics"][key] for row in rows if row["round"] == last}
    metrics = next(e["metrics"] for e in run.rounds if e["round"] == last)
    ordered = sorted(values.items(), key=lambda pair: (pair[1] if is_up else -pair[1], pair[0]))
    fig, ax = figure()
    if len(ordered) <= _BARS:
        ax.bar(range(len(ordered)), [value for _, value in ordered], color=COLORS[0], width=0.75)
        ax.set_xticks(range(len(ordered)), [str(client) for client, _ in ordered], fontsize=7)
        ax.set_xlabel("client, worst first", fontsize=9)
        ax.set_ylabel(name, fontsize=9)
    else:
        ax.hist([value for _, value in ordered], bins=40, color=COLORS[0])
        ax.set_xlabel(name, fontsize=9)
        ax.set_ylabel("clients", fontsize=9)
    ax.grid(axis="x", visible=False)
    worst = metrics.get(f"{key}/worst_decile")
    text = (
        f"After round {last}, {name} over all held-out examples of {len(values):,} clients is "
        f"{number(metrics.get(key))}; the worst tenth of the clients has {number(worst)}, the "
        f"variance between clients is {number(metrics.get(f'{key}/variance'))}."
    )
    table = [[client, number(value)] for client, value in ordered[:_BARS]]
    return Section(
        "spread",
        "Across clients",
        {
            "round": last,
            "metric": key,
            "clients": {str(client): value for client, value in ordered[:1000]},
            "worst_decile": worst,
            "variance": metrics.get(f"{key}/variance"),
        },
        text=text,
        pictures=[Picture(svg(fig, "spread"), f"{name} of each client, from worst to best.")],
        tables=[Table("Clients, worst first", ["client", name], table, is_folded=True)],
    )
