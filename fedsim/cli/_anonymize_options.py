"""Options that the commands on tables share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from fedsim.anonymize.protection import Protection

__all__ = [
    "Delta",
    "Diversity",
    "Encoding",
    "KMap",
    "Processes",
    "SchemaFile",
    "Separator",
    "protection",
]

SchemaFile = Annotated[Path, typer.Option("--schema", metavar="TOML", help="What each column is.")]
Diversity = Annotated[
    Literal["none", "distinct", "entropy", "recursive"],
    typer.Option("--diversity", help="Of the sensitive values of each class, with -l."),
]
Delta = Annotated[
    float | None, typer.Option("--delta", metavar="D", help="delta-disclosure: each log ratio < D.")
]
KMap = Annotated[
    int | None,
    typer.Option("--k-map", metavar="N", help="People of the population each class fits."),
]
Separator = Annotated[
    str, typer.Option("--separator", metavar="CHAR", help="Between cells (default: found).")
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="That read free text (the processors there are)."),
]
Encoding = Annotated[str, typer.Option("--encoding", help="Of a CSV file.")]


def protection(
    k: int,
    diversity: Literal["none", "distinct", "entropy", "recursive"],
    l: float,  # noqa: E741 - the literature's name
    c: float,
    t: float | None,
    delta: float | None,
    k_map: int | None,
) -> "Protection":
    """Return what the options ask for. Raises `ConfigError`; `-l` alone is distinct diversity."""
    from fedsim.anonymize.protection import Protection

    return Protection(k, diversity, l, c, t, delta=delta, k_map=k_map)
