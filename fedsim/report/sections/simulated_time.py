"""Simulated time: how good the model was when, by the virtual clock, and at what cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg, thinned
from fedsim.report.section import (
    Picture,
    Section,
    Table,
    bytes_text,
    metric_of,
    number,
    seconds_text,
)

__all__ = ["COLUMNS", "joules_text", "reached", "row", "section"]

SECONDS, JOULES = "simulated/seconds", "simulated/joules"
_TARGETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
#: Of a table of what `reached` returns.
COLUMNS = ("reached", "round", "simulated time", "sent down", "sent up", "energy")


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section | None:
    """Return the section; nothing where no virtual clock ran."""
    timed = [entry for entry in run.rounds if entry["metrics"].get(SECONDS) is not None]
    if not timed:
        return None
    last, found = timed[-1]["metrics"], reached(run)
    key, points = _series(run)
    data = {
        "seconds": last[SECONDS],
        "joules": last[JOULES],
        "metric": key,
        "series": [list(point) for point in points],
        "reached": found,
        "lost": sum(entry["lost"] for entry in timed),
    }
    text = (
        f"By the virtual clock ([devices], name {run.config['devices']['name']!r}) the run took "
        f"{seconds_text(last[SECONDS])} and {joules_text(last[JOULES])} on clients' devices: "
        "simulated, the same on every machine. Tests of the model and the server take no time in "
        "it. Energy is that of all clients that were asked, whether they counted or not."
    )
    tables = [Table(f"Time to {key}", COLUMNS, [row(entry) for entry in found])] if found else []
    pictures = [_picture(key, points)] if len(points) > 1 else []
    return Section(
        "simulated_time",
        "Simulated time and energy",
        data,
        text=text,
        pictures=pictures,
        tables=tables,
    )


def reached(run: Any) -> list[dict[str, Any]]:
    """Return what it took to get the main metric to a value: the first round that tested better.

    Of accuracy and its like to round values, of anything to the best one. Empty without a clock.
    """
    key, points = _series(run)
    if not points:
        return []
    _, is_up = metric_of(run)
    sign = 1.0 if is_up else -1.0
    best = max((value for _, value in points), key=lambda value: sign * value)
    targets = [t for t in _TARGETS if t <= best] if is_up and 0 <= best <= 1 else []
    found, down, up = [], 0, 0
    for entry in run.rounds:
        down, up = down + entry["bytes_down"], up + entry["bytes_up"]
        value, metrics = entry["metrics"].get(key), entry["metrics"]
        while value is not None and targets and sign * value >= sign * targets[0]:
            found.append(_cost(key, targets.pop(0), entry["round"], metrics, down, up))
        if value == best:
            found.append(_cost(key, best, entry["round"], metrics, down, up))
            break
    return found


def row(entry: Mapping[str, Any]) -> list[str]:
    """Return an entry of `reached` as a person would read it, by `COLUMNS`."""
    return [
        f"{entry['metric']} {number(entry['value'])}",
        str(entry["round"]),
        seconds_text(entry["seconds"]),
        bytes_text(entry["bytes_down"]),
        bytes_text(entry["bytes_up"]),
        joules_text(entry["joules"]),
    ]


def joules_text(joules: float) -> str:
    """Write an energy.

    >>> joules_text(12.34), joules_text(7.2e6)
    ('12.3 J', '7.2 MJ')
    """
    for unit in ("J", "kJ", "MJ"):
        if joules < 1000:
            return f"{joules:.1f} {unit}"
        joules /= 1000
    return f"{joules:.1f} GJ"


def _cost(
    key: str, value: float, round_: int, metrics: Mapping[str, Any], down: int, up: int
) -> dict[str, Any]:
    return {
        "metric": key,
        "value": value,
        "round": round_,
        "seconds": metrics[SECONDS],
        "joules": metrics[JOULES],
        "bytes_down": down,
        "bytes_up": up,
    }


def _series(run: Any) -> tuple[str, list[tuple[float, float]]]:
    """Return the main metric that was tested, over simulated seconds."""
    name, _ = metric_of(run)
    for key in (f"test/{name}", f"federated/{name}"):
        points = [
            (entry["metrics"][SECONDS], entry["metrics"][key])
            for entry in run.rounds
            if entry["metrics"].get(key) is not None and entry["metrics"].get(SECONDS) is not None
        ]
        if points:
            return key, points
    return f"test/{name}", []


def _picture(key: str, points: Sequence[tuple[float, float]]) -> Picture:
    fig, ax = figure()
    x, y = zip(*thinned(points), strict=True)
    ax.plot(x, y, color=COLORS[0], linewidth=1.6)
    ax.set_xlabel("simulated seconds", fontsize=9)
    ax.set_ylabel(key, fontsize=9)
    ax.set_xlim(left=0)
    text = f"{key} over simulated time: {number(y[-1])} after {seconds_text(x[-1])}."
    return Picture(svg(fig, "simulatedtime"), text)
