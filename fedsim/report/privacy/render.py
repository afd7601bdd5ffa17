"""The report as HTML and Markdown; both say the same."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import SetupError
from fedsim.report._templates import template
from fedsim.report.privacy.pictures import pictures
from fedsim.report.privacy.sections import sections
from fedsim.report.privacy.summary import summary, title
from fedsim.report.section import Table

__all__ = ["as_html", "as_json", "as_markdown", "rendered", "write"]


def rendered(content: Mapping[str, Any], format: str) -> str:
    """Return the report as "html", "json" or "md"."""
    return {"html": as_html, "json": as_json, "md": as_markdown}[format](content)


def write(content: Mapping[str, Any], format: str, path: Path) -> None:
    """Write the report, all of it or nothing. Raises `SetupError` when that cannot be done."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(rendered(content, format), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SetupError(
            f"cannot write {path}: {error.strerror or error}. Choose another place with --output"
        ) from error


def as_json(content: Mapping[str, Any]) -> str:
    """Return strict JSON, in reading order."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def as_html(content: Mapping[str, Any]) -> str:
    """Return one page that opens offline."""
    page: str = template("privacy.html").render(
        content=content,
        title=title(content),
        summary=summary(content),
        sections=sections(content, pictures(content)),
    )
    return page


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return Markdown; its first ten lines are the summary."""
    lines = [f"# {_cell(title(content))}", ""]
    lines += [f"- **{label}**: {_cell(text)}" for label, text in summary(content)]
    lines += ["", "## Checks", ""]
    rows = [[c["check"], c["status"], c["reason"]] for c in content["checks"]]
    lines += _table(Table("", ["check", "status", "reason"], rows))
    for section in sections(content):
        lines += [f"## {section.title}", ""]
        lines += [_cell(section.text), ""] if section.text else []
        for table in section.tables:
            lines += [f"{_cell(table.title)}:", ""] if table.title else []
            lines += _table(table)
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    return [_row(table.columns), _row(["---"] * len(table.columns)), *map(_row, table.rows), ""]


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(value: Any) -> str:
    """Return text that is only text in Markdown: on one line, without markup of its own."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")
