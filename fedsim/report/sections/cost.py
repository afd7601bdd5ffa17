"""What it costs: time and bytes of each round."""

from collections.abc import Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg, thinned
from fedsim.report.section import Picture, Section, Table, bytes_text, seconds_text

__all__ = ["section"]


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return time by stage, and bytes in both directions."""
    if not run.rounds:
        return Section("cost", "Cost", None, text="No round was finished.")
    stages = list(dict.fromkeys(stage for entry in run.rounds for stage in entry["seconds"]))
    totals = {s: sum(e["seconds"].get(s, 0.0) for e in run.rounds) for s in stages}
    every = sum(entry["real_seconds"] for entry in run.rounds)
    down = sum(entry["bytes_down"] for entry in run.rounds)
    up = sum(entry["bytes_up"] for entry in run.rounds)
    asked = max(sum(entry["cohort"] for entry in run.rounds), 1)
    text = (
        f"{seconds_text(every)} of real time in {len(run.rounds)} rounds "
        f"({every / len(run.rounds):.2f} s each). A client gets {bytes_text(down / asked)} and "
        f"sends {bytes_text(up / asked)} per round it is asked in: payload of models, updates and "
        "metrics, without transport overhead."
    ) + _encoded(run)
    rows = [[stage, seconds_text(value), f"{value / every:.0%}"] for stage, value in totals.items()]
    return Section(
        "cost",
        "Cost",
        {
            "seconds_by_stage": totals,
            "real_seconds": every,
            "bytes_down": down,
            "bytes_up": up,
            "rounds": [
                {key: entry[key] for key in ("round", "real_seconds", "bytes_down", "bytes_up")}
                for entry in run.rounds
            ],
        },
        text=text,
        pictures=[_time(run, stages), _bytes(run)],
        tables=[Table("Time by stage", ["stage", "real time", "share"], rows)],
    )


def _encoded(run: Any) -> str:
    """Say what the bytes of updates are, where a transform makes them fewer."""
    name = run.config.get("transform", {}).get("name", "unchanged")
    if name in ("unchanged", "clip"):
        return ""
    told = f" Updates travel as the transform {name} makes them, and these bytes are counted."
    if run.facts.get("grid") == "flower":
        return told
    return f"{told} In this simulation workers decode them where clients run, to add them up there."


def _time(run: Any, stages: list[str]) -> Picture:
    entries = thinned(run.rounds)
    x = [entry["round"] for entry in entries]
    fig, ax = figure(height=2.2)
    layers = [[entry["seconds"].get(stage, 0.0) for entry in entries] for stage in stages]
    if len(x) > 1:
        ax.stackplot(x, layers, labels=stages, colors=COLORS, alpha=0.85)
    else:
        bottom = 0.0
        for color, stage, layer in zip(COLORS, stages, layers, strict=False):
            ax.bar(x, layer, bottom=bottom, color=color, label=stage, width=0.3)
            bottom += layer[0]
    ax.set_xlabel("round", fontsize=9)
    ax.set_ylabel("seconds", fontsize=9)
    ax.legend(fontsize=8, frameon=False, ncols=len(stages), loc="upper right")
    return Picture(svg(fig, "time"), "Real seconds of each round, by stage.")


def _bytes(run: Any) -> Picture:
    sums: list[tuple[int, int, int]] = []
    down = up = 0
    for entry in run.rounds:
        down, up = down + entry["bytes_down"], up + entry["bytes_up"]
        sums.append((entry["round"], down, up))
    x, y_down, y_up = zip(*thinned(sums), strict=True)
    fig, ax = figure(height=2.0)
    for label, values, color in (("down", y_down, COLORS[0]), ("up", y_up, COLORS[1])):
        ax.plot(x, [v / 2**20 for v in values], label=label, color=color, linewidth=1.6)
    ax.set_xlabel("round", fontsize=9)
    ax.set_ylabel("MiB in all", fontsize=9)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False)
    return Picture(
        svg(fig, "bytes"), f"Bytes sent so far: {bytes_text(down)} down, {bytes_text(up)} up."
    )
