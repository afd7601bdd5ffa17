"""Does it learn: metric and loss over rounds."""

from collections.abc import Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Picture, Section, Table, metric_of, number

__all__ = ["section"]

_PARTS = (("test", "server's test set"), ("federated", "clients' held-out"), ("train", "training"))
_ROWS = 200


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return the curves and their table."""
    name, _ = metric_of(run)
    series: dict[str, list[list[float]]] = {}
    for entry in run.rounds:
        for key, value in entry["metrics"].items():
            if value is not None:
                series.setdefault(key, []).append([entry["round"], value])
    shown = [
        n for n in dict.fromkeys((name, "loss")) if any(f"{p}/{n}" in series for p, _ in _PARTS)
    ]
    if not shown:
        return Section("learning", "Learning", series, text="No round was finished.")
    fig, axes = figure(height=2.9, columns=len(shown))
    for ax, metric in zip(axes if len(shown) > 1 else [axes], shown, strict=True):
        for color, (part, label) in zip(COLORS, _PARTS, strict=False):
            points = series.get(f"{part}/{metric}")
            if points:
                x, y = zip(*points, strict=True)
                marker = "o" if len(points) < 40 else ""
                ax.plot(x, y, color=color, label=label, marker=marker, markersize=3, linewidth=1.6)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(metric, fontsize=10, loc="left")
        ax.set_xlabel("round", fontsize=9)
        ax.legend(fontsize=8, frameon=False)
    text = ", ".join(f"{key} ends at {number(points[-1][1])}" for key, points in _ends(series))
    columns = sorted(key for key in series if key.count("/") == 1)
    rows = [
        [entry["round"], *(number(entry["metrics"].get(key)) for key in columns)]
        for entry in run.rounds[-_ROWS:]
    ]
    title = "All values" if len(run.rounds) <= _ROWS else f"The last {_ROWS} rounds"
    return Section(
        "learning",
        "Learning",
        series,
        pictures=[Picture(svg(fig, "learning"), f"Metrics over rounds: {text}.")],
        tables=[Table(title, ["round", *columns], rows, is_folded=True)],
    )


def _ends(series: dict[str, list[list[float]]]) -> list[tuple[str, list[list[float]]]]:
    return sorted((k, v) for k, v in series.items() if k.count("/") == 1)
