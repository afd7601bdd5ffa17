"""Assemble the report from its sections."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.report._templates import template
from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Section, metric_of, number

__all__ = ["ORDER", "build", "fragment", "write"]

ORDER = (
    "checks",
    "headline",
    "learning",
    "spread",
    "attack",
    "partition",
    "cost",
    "simulated_time",
    "secure_sum",
    "anonymization",
    "lost",
    "environment",
)
SCHEMA_VERSION = 1


def write(run: Any, clients: Sequence[dict[str, Any]], folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.json of a `StoredRun`; return their paths.

    `clients`: rows of the last federated evaluation and of lost clients. The same input gives the
    same bytes. Raises `SetupError` when the folder cannot be written.
    """
    from fedsim.engine.checkpoint import write_atomically

    sections = _sections(run, clients)
    html, data = folder / "report.html", folder / "report.json"
    write_atomically(html, _render(run, sections).encode())
    text = json.dumps(_content(run, sections), indent=1, sort_keys=True, allow_nan=False)
    write_atomically(data, text.encode() + b"\n")
    return html, data


def build(run: Any, clients: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the report's content as JSON-able data; its schema is report/schema.json."""
    return _content(run, _sections(run, clients))


def fragment(run: Any) -> str:
    """Return a small piece of HTML for a notebook: what came out, and the curve."""
    from html import escape

    name, _ = metric_of(run)
    points = [
        (entry["round"], entry["metrics"][key])
        for entry in run.rounds
        for key in (f"test/{name}",)
        if entry["metrics"].get(key) is not None
    ]
    picture = ""
    if points:
        fig, ax = figure(4.2, 1.7)
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=COLORS[0], linewidth=1.6)
        ax.set_title(f"test {name}: {number(y[-1])}", fontsize=10, loc="left")
        picture = svg(fig, f"fragment{run.id}")
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(key)}</th><td>{escape(number(value))}</td></tr>"
        for key, value in sorted((run.summary.get("metrics") or {}).items())
        if key.count("/") == 1
    )
    head = f"<b>{escape(run.id)}</b> {escape(run.status)}, {len(run.rounds)} rounds"
    return f"<div>{head}<table>{rows}</table>{picture}</div>"


def _sections(run: Any, clients: Sequence[dict[str, Any]]) -> list[Section]:
    modules = [importlib.import_module(f"fedsim.report.sections.{name}") for name in ORDER]
    made = [module.section(run, clients) for module in modules]
    return [section for section in made if section is not None]


def _content(run: Any, sections: Sequence[Section]) -> dict[str, Any]:
    head = {
        "schema_version": SCHEMA_VERSION,
        "run": run.id,
        "name": run.name,
        "status": run.status,
        "created": run.created,
        "finished": run.finished,
    }
    content: dict[str, Any] = _finite(
        head | {"sections": {section.key: section.data for section in sections}}
    )
    return content


def _finite(value: Any) -> Any:
    """Make a value strict JSON: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def _render(run: Any, sections: Sequence[Section]) -> str:
    by_key = {section.key: section for section in sections}
    rest = [section for section in sections if section.key not in ("checks", "headline")]
    page: str = template("report.html").render(
        run=run,
        checks=by_key["checks"].data,
        tiles=by_key["headline"].data["tiles"],
        sections=rest,
        verdict=_verdict(run, by_key["checks"].data),
    )
    return page


def _verdict(run: Any, checks: Sequence[Mapping[str, str]]) -> str:
    """Say in one sentence what came out."""
    name, _ = metric_of(run)
    metrics: dict[str, Any] = {}
    for entry in run.rounds:
        metrics |= entry["metrics"]
    failed = [check["check"] for check in checks if check["status"] == "fail"]
    value = metrics.get(f"test/{name}", metrics.get(f"federated/{name}"))
    what = {
        "federated": f"{run.config['strategy']['name']} on {run.partition['clients']:,} clients",
        "pooled": "the pooled baseline (all data in one place)",
        "local-only": f"the local-only baseline ({run.partition['clients']:,} clients, each alone)",
    }[run.config.get("mode", "federated")]
    reached = f" reached {name} {number(value)}" if value is not None else " has no test result"
    text = f"{what[0].upper()}{what[1:]}{reached} after {len(run.rounds)} rounds"
    if run.status != "finished":
        text += f"; the run is {run.status}"
    return text + (f"; look at: {', '.join(failed)}." if failed else ".")
