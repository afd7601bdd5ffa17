"""What a section of the report is: content for the JSON, and how it looks in the HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Picture", "Section", "Table", "bytes_text", "metric_of", "number", "seconds_text"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the row. `is_folded` hides it until asked for."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An inline SVG and what it shows, in words."""

    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """One section. `data` goes into the JSON as it is; the rest is only looks."""

    key: str
    title: str
    data: Any
    text: str = ""
    pictures: Sequence[Picture] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    code: str = ""


def metric_of(run: Any) -> tuple[str, bool]:
    """Return the run's main metric and whether larger is better."""
    from fedsim.metrics import larger_is_better

    names = run.facts.get("metrics") or ["loss"]
    return names[0], larger_is_better(names[0])


def number(value: Any) -> str:
    """Write a number as a person would read it.

    >>> number(0.93891), number(12), number(None), number(1.5e-7)
    ('0.9389', '12', '-', '1.5e-07')
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def bytes_text(size: float) -> str:
    """Write a size in binary units.

    >>> bytes_text(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def seconds_text(seconds: float) -> str:
    """Write a duration.

    >>> seconds_text(3.21), seconds_text(75), seconds_text(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
