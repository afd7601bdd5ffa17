"""The tables that benchmarks write into docs/performance.md, each between marks of its name."""

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["put", "table", "verdict"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of `name`; raises `ValueError` where it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before = page.read_text(encoding="utf-8")
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    after, found = re.subn(pattern, lambda _: f"{begin}\n{text}\n{end}", before, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{page} has no marks {begin}")
    page.write_text(after, encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def verdict(
    what: str, value: float, bound: float, form: str = ".3f", *, is_least: bool = False
) -> str:
    """Return a line that says whether a value is as small, or as large, as it has to be."""
    sign, is_met = ("≥", value >= bound) if is_least else ("≤", value <= bound)
    said = "PASS" if is_met else "FAIL"
    return f"- {what}: {value:{form}} (target {sign} {bound:{form}}) {said}"
