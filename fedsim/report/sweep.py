"""The comparison of a sweep's runs: one HTML page that opens offline, JSON, CSV and a picture.

Made from the content alone that `fedsim.sweep.compare_sweep` returns.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.files import replacing
from fedsim.report._templates import template
from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Picture, Section, Table, bytes_text, number, seconds_text

__all__ = ["COLUMNS", "rows_of", "write"]

COLUMNS = ("setting", "runs", "mean", "interval", "difference", "sent up", "real time")


def rows_of(content: Mapping[str, Any]) -> list[list[str]]:
    """Return the table as text, one row for each setting."""
    return [
        [
            row["setting"],
            str(row["count"]),
            number(row["mean"]),
            "-" if row["half_width"] is None else f"± {number(row['half_width'])}",
            _difference(row, content),
            bytes_text(row["bytes_up"]),
            seconds_text(row["real_seconds"]),
        ]
        for row in content["rows"]
    ]


def write(content: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write compare.html, compare.json, compare.csv and compare.svg; return their paths."""
    picture = _picture(content)
    texts = {
        "html": _page(content, picture),
        "json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "csv": _csv(content),
        "svg": picture.replace("currentColor", "#222222"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"compare.{kind}" for kind in texts}
    for kind, text in texts.items():
        with replacing(paths[kind]) as file:
            file.write(text.encode())
    return paths


def _difference(row: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    found = row["difference"]
    if found is None:
        return "baseline" if row["setting"] == content["baseline"] else "no seed in common"
    if found["half_width"] is None:
        return f"{found['mean']:+.4g}"
    mark = "" if row["is_clear"] else " (not clear)"
    return f"{found['mean']:+.4g} ± {found['half_width']:.2g}{mark}"


def _csv(content: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "seed", "run", content["metric"]])
    for row in content["rows"]:
        for seed, value in row["values"].items():
            writer.writerow([row["setting"], seed, row["runs"][seed], value])
    return text.getvalue()


def _picture(content: Mapping[str, Any]) -> str:
    """Draw the curves over rounds with their bands, and where each setting ends."""
    fig, (left, right) = figure(9.0, 3.2, columns=2)
    rows: Sequence[Mapping[str, Any]] = content["rows"]
    for place, row in enumerate(rows):
        color = COLORS[place % len(COLORS)]
        curve = content["curves"][row["setting"]]
        rounds, means = [p["round"] for p in curve], [p["mean"] for p in curve]
        widths = [p["half_width"] or 0.0 for p in curve]
        left.plot(rounds, means, color=color, linewidth=1.4)
        low = [m - w for m, w in zip(means, widths, strict=True)]
        high = [m + w for m, w in zip(means, widths, strict=True)]
        left.fill_between(rounds, low, high, color=color, alpha=0.15, linewidth=0)
        right.errorbar(
            [row["mean"]],
            [place],
            xerr=[row["half_width"] or 0.0],
            fmt="o",
            color=color,
            capsize=3,
            markersize=4,
        )
    left.set_xlabel("round")
    left.set_title(content["metric"], fontsize=10, loc="left")
    right.set_yticks(range(len(rows)), [row["setting"] for row in rows], fontsize=8)
    right.invert_yaxis()
    right.set_title(f"{content['by']} value, {content['confidence']:.0%}", fontsize=10, loc="left")
    return svg(fig, f"sweep {content['sweep']}")


def _page(content: Mapping[str, Any], picture: str) -> str:
    what = f"{content['metric']}, {content['by']} value"
    text = (
        f"Means over seeds with {content['confidence']:.0%} t intervals. The difference to "
        f"{content['baseline']} is of runs with the same seed; not clear: zero is in its interval."
    )
    shown = f"{what} over rounds, and where each setting ends"
    tables = [Table(what, COLUMNS, rows_of(content))]
    single = [
        [row["setting"], seed, number(value), row["runs"][seed]]
        for row in content["rows"]
        for seed, value in row["values"].items()
    ]
    tables.append(Table("Every run", ("setting", "seed", "value", "run"), single, is_folded=True))
    if content["missing"]:
        left = [[str(values)] for values in content["missing"]]
        tables.append(Table("Cells without a finished run", ("cell",), left))
    section = Section("sweep", "Comparison", content, text, (Picture(picture, shown),), tables)
    title = f"{content['sweep']} - fedsim comparison"
    page: str = template("sweep.html").render(title=title, sections=[section])
    return page
