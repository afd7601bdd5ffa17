"""A published table as a file: an experiment, its rows, their numbers and how far off is too far.

Each table is one TOML file in `tables/`. `[full]` is the published setting, `[short]` one that a
continuous check can afford, with settings of its own. In the short version a row has a band of its
own, frozen from our own runs and as wide as means over other seeds would lie apart (2.8 standard
errors): it says that nothing has changed, not that the paper is right. What a shortened run can say
of the paper are `[[order]]`s: that one row is above another.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from fedsim.errors import ConfigError, Problem
from fedsim.fields import read_table
from fedsim.registry import suggest

__all__ = ["Order", "Row", "Table", "Version", "load", "tables"]

Measure = Literal["last", "best", "clients", "rounds"]


@dataclass(frozen=True, slots=True)
class Version:
    """What is run: `settings` on top of the experiment's, `seeds`, about how long it takes.

    `band`: how far a row may be from what was published, and `why`; unset holds none to that.
    """

    seeds: tuple[int, ...]
    minutes: float
    settings: tuple[str, ...] = ()
    band: float | None = None
    target: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: `published` with its `deviation`, in the metric's units; None where only a curve was.

    `frozen`, `band`: our own value in the short version when it was set, and what is allowed.
    """

    name: str
    settings: tuple[str, ...] = ()
    published: float | None = None
    deviation: float | None = None
    frozen: float | None = None
    band: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A claim: the first row is better than the second, by `by` in the metric's units."""

    better: str
    worse: str
    by: float = 0.0


@dataclass(frozen=True, slots=True)
class Table:
    """A published table. `measure`: "last", "best" value of `metric`; "clients": the mean over
    clients of their own last one; "rounds": the first round in which it reaches a version's target.
    """

    name: str
    title: str
    source: str
    experiment: dict[str, Any]
    metric: str
    measure: Measure
    full: Version
    rows: Sequence[Row]
    short: Version | None = None
    orders: Sequence[Order] = field(default_factory=tuple)
    deviations: str = ""
    tried: str = ""

    def version(self, *, is_full: bool) -> Version:
        """Return what is run: shortened, unless asked for in full or where there is no such."""
        return self.full if is_full or self.short is None else self.short

    @property
    def is_lower_better(self) -> bool:
        """Whether smaller is better: rounds and losses."""
        return self.measure == "rounds" or self.metric.endswith("loss")


def tables() -> list[str]:
    """Return the names of the tables there are."""
    folder = resources.files("fedsim.reproduce") / "tables"
    names = [item.name for item in folder.iterdir() if item.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml") for name in names)


def load(name: str) -> Table:
    """Read a table. Raises `ConfigError` with a did-you-mean for a name that there is not."""
    if name not in tables():
        known = ", ".join(tables())
        raise ConfigError([Problem("name", name, f"one of {known}", suggest(name, tables()))])
    file = resources.files("fedsim.reproduce") / "tables" / f"{name}.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    problems: list[Problem] = []
    short = content.pop("short", None)
    made = {
        "full": read_table("full", Version, content.pop("full"), problems),
        "short": read_table("short", Version, short, problems) if short else None,
        "rows": [read_table("row", Row, row, problems) for row in content.pop("row")],
        "orders": [read_table("order", Order, o, problems) for o in content.pop("order", [])],
    }
    if problems:
        raise ConfigError(problems)
    return Table(name=name, **made, **content)
