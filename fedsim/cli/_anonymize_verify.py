"""`fedsim anonymize verify`: a released table, counted from its text alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._anonymize_options import (
    Delta,
    Diversity,
    Encoding,
    SchemaFile,
    Separator,
    protection,
)
from fedsim.cli._output import Json, print_json, print_table

__all__ = ["verify"]


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A released table.")],
    schema: SchemaFile,
    *,
    k: Annotated[int, typer.Option("-k", help="Rows of a class at least.")] = 5,
    diversity: Diversity = "none",
    l: Annotated[float, typer.Option("-l", help="Of diversity.")] = 2.0,  # noqa: E741
    c: Annotated[float, typer.Option("-c", help="Of recursive (c, l)-diversity.")] = 3.0,
    t: Annotated[float | None, typer.Option("-t", help="t-closeness.")] = None,
    delta: Delta = None,
    separator: Separator = "",
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Count a released table from its text alone; exit code 1 where something is not reached.

    Knows nothing of how the table was made. Columns that should not be there fail, too; cells that
    look like personal data are named.
    """
    from fedsim.anonymize.files import open_table
    from fedsim.anonymize.schema import read_schema
    from fedsim.anonymize.verify import recount, undeclared, unmet
    from fedsim.cli._anonymize_progress import stages

    asked = protection(k, diversity, l, c, t, delta, None)
    declared = read_schema(schema)
    table = open_table(file, separator=separator, encoding=encoding)
    with stages() as say:
        found = recount(table, declared, c=c, advance=lambda share: say("reading", share))
    wrong = [*unmet(found, asked), *undeclared(table, declared)]
    code = 1 if wrong else 0
    if as_json:
        status = "failed" if wrong else "ok"
        print_json({"status": status, "exit_code": code, "wrong": wrong, **found.to_dict()})
    else:
        _say(found, wrong)
    if code:
        raise typer.Exit(code)


def _say(found: Any, wrong: list[str]) -> None:
    rows: list[list[Any]] = [["rows", f"{found.rows:,}"], ["suppressed", f"{found.suppressed:,}"]]
    rows += [["classes", f"{found.classes:,}"], ["k", found.k]]
    for column in found.sensitive:
        delta = "infinite" if column.delta is None else f"{column.delta:.4f}"
        text = (
            f"l {column.distinct} distinct, {column.entropy:.3f} entropy, {column.recursive} "
            f"recursive (c = {found.c:g}); t {column.t:.4f} ({column.distance}); delta {delta}"
        )
        rows.append([column.name, text])
    rows += [[one.column, f"looks like {one.kind} ({one.share:.1%})"] for one in found.leftovers]
    rows += [[name, "cells that a spreadsheet would compute"] for name in found.formulas]
    print_table(["", ""], rows)
    for line in wrong:
        print(f"FAIL {line}")
    if not wrong:
        print("every declared property holds")
