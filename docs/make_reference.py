"""Write the reference of all settings and parts into docs/configuration.md, between the markers.

python docs/make_reference.py
"""

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from fedsim import registry
from fedsim.config import explain
from fedsim.config.schema import PARTS, RunConfig
from fedsim.fields import accepted, fields_of

PAGE = Path(__file__).parent / "configuration.md"
BEGIN, END = "<!-- reference: begin -->", "<!-- reference: end -->"


def reference() -> str:
    """Return the reference as Markdown."""
    lines = ["### Tables of settings", ""]
    for name, kind in typing.get_type_hints(RunConfig, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            lines += [f"#### `[{name}]`", "", inspect.getdoc(kind) or "", ""]
            lines += _table(
                [(f.name, _default(f), accepted(fields_of(kind)[f.name])) for f in _fields(kind)]
            )
    lines += ["### Parts", ""]
    for section, (group, default) in PARTS.items():
        lines += [f"#### `[{section}]`, by default `{default}`", ""]
        for name in registry.names(group):
            (part,) = explain(f"{group}.{name}")
            lines += [f"**`{name}`**: {part['summary']} {' '.join(part['doc'].split())}", ""]
            if part["fields"]:
                rows = [(f["name"], f["default"], f["accepted"]) for f in part["fields"]]
                lines += _table(rows)
    return "\n".join(lines).rstrip() + "\n"


def page(text: str) -> str:
    """Return the page with the reference between its markers."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _fields(kind: Any) -> list[Any]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _default(field: Any) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def _table(rows: list[tuple[str, Any, str]]) -> list[str]:
    head = ["| key | default | accepted |", "|---|---|---|"]
    body = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in rows]
    return [*head, *body, ""]


def _shown(default: Any) -> str:
    if default is None:
        return "unset"
    if default in ("", (), {}):
        return "empty"
    if isinstance(default, tuple):
        default = list(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
