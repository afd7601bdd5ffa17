"""The report of reproductions: Markdown, JSON and one HTML page, from the same lines."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.files import replacing
from fedsim.report._templates import template
from fedsim.report.section import Section
from fedsim.report.section import Table as Shown
from fedsim.reproduce._judge import Verdict
from fedsim.reproduce._table import Table, load, tables

__all__ = ["COLUMNS", "as_markdown", "write"]

COLUMNS = ("row", "published", "ours", "band", "")
Found = Sequence[tuple[Table, bool, Sequence[Verdict]]]


def write(found: Found, path: Path) -> list[Path]:
    """Write PATH.md, PATH.json and PATH.html; `path` is without an ending. Return the paths."""
    texts = {".md": as_markdown(found), ".json": _as_json(found), ".html": _page(found)}
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending, text in texts.items():
        paths.append(path.parent / f"{path.name}{ending}")
        with replacing(paths[-1]) as file:
            file.write(text.encode())
    return paths


def as_markdown(found: Found) -> str:
    """Return the report as a page of Markdown."""
    lines = [
        "# Reproductions",
        "",
        "Published tables, run again by `fedsim reproduce`, which wrote this page. *Short* tables",
        "are run for less long than published: the band of a row is then around our *own* earlier",
        "value, as wide as means over other seeds would lie apart (2.8 standard errors, at least",
        "0.01, or one round), and what is said of the paper are the orders between rows.",
        "`fedsim reproduce --all` runs the published settings; the longest run only then.",
        "",
    ]
    for table, is_full, verdicts in found:
        version = _version(table, is_full=is_full)
        lines += [f"## {table.title}", "", f"`fedsim reproduce {table.name}`: {version}.", ""]
        lines += [f"Source: {table.source}", ""]
        lines += ["| row | published | ours | band | |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_cells(v))} |" for v in verdicts]
        lines.append("")
        for label, text in (("Deviations", table.deviations), ("Tried", table.tried)):
            lines += [f"{label}: {' '.join(text.split())}", ""] if text else []
    lines += _not_here({table.name for table, _, _ in found})
    return "\n".join(lines).rstrip() + "\n"


def _not_here(names: set[str]) -> list[str]:
    """Say which tables there are beside those of the page, and how to run them."""
    others = [load(name) for name in tables() if name not in names]
    if not others:
        return []
    lines = [
        "## Not run for this page",
        "",
        "Nothing is said of these here, neither pass nor fail:",
        "",
    ]
    for table in others:
        minutes = (table.short or table.full).minutes
        about = f"{table.title}: about {minutes:g} minutes on two cores that nobody else uses"
        if table.short:
            about += f", {table.full.minutes:,g} as published"
        lines.append(f"- `fedsim reproduce {table.name}`. {about}.")
    return lines


def _version(table: Table, *, is_full: bool) -> str:
    """Say what was run, in words."""
    version = table.version(is_full=is_full)
    kind = "as published" if version is table.full else "short"
    seeds = f"{len(version.seeds)} seed{'s' if len(version.seeds) > 1 else ''}"
    measured = f"{table.metric}, {table.measure}"
    if version.target:
        measured = f"rounds to {table.metric} {version.target:g}"
    settings = f"; {' '.join(version.settings)}" if version.settings else ""
    return f"{kind}, {seeds}, {measured}{settings}"


def _cells(verdict: Verdict) -> list[str]:
    shown = dataclasses.astuple(verdict)
    return [str(cell).replace("|", "/").splitlines()[0] if cell else "-" for cell in shown]


def _as_json(found: Found) -> str:
    content: dict[str, Any] = {
        "schema_version": 1,
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "source": table.source,
                "version": "full" if table.version(is_full=is_full) is table.full else "short",
                "rows": [dataclasses.asdict(verdict) for verdict in verdicts],
            }
            for table, is_full, verdicts in found
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def _page(found: Found) -> str:
    sections = [
        Section(
            table.name,
            table.title,
            {},
            f"{table.source} {_version(table, is_full=is_full)}. {table.deviations} {table.tried}",
            (),
            (Shown("Rows", COLUMNS, [_cells(verdict) for verdict in verdicts]),),
        )
        for table, is_full, verdicts in found
    ]
    page: str = template("sweep.html").render(title="Reproductions", sections=sections)
    return page
