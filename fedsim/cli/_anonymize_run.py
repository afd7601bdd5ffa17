"""`fedsim anonymize run`: a table made safe."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedsim.cli._anonymize_options import (
    Delta,
    Diversity,
    Encoding,
    KMap,
    Processes,
    SchemaFile,
    Separator,
    protection,
)
from fedsim.cli._output import Json, print_json, print_table

__all__ = ["run"]


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV, TSV or Parquet file.")],
    schema: SchemaFile,
    output: Annotated[Path, typer.Option("--output", metavar="OUT", help="The new table.")],
    *,
    k: Annotated[int, typer.Option("-k", help="Rows of a class at least.")] = 5,
    diversity: Diversity = "none",
    l: Annotated[float, typer.Option("-l", help="Of diversity.")] = 2.0,  # noqa: E741
    c: Annotated[float, typer.Option("-c", help="Of recursive (c, l)-diversity.")] = 3.0,
    t: Annotated[float | None, typer.Option("-t", help="t-closeness.")] = None,
    delta: Delta = None,
    k_map: KMap = None,
    population: Annotated[
        Path | None,
        typer.Option("--population", metavar="FILE", help="A table of whom the people are among."),
    ] = None,
    recoding: Annotated[
        Literal["nodes", "sets", "full-domain"],
        typer.Option("--recoding", help="Values become groups, sets, or one level per column."),
    ] = "nodes",
    max_suppression: Annotated[
        float, typer.Option("--max-suppression", metavar="SHARE", help="Rows left out at most.")
    ] = 0.05,
    keep_suppressed: Annotated[
        bool, typer.Option("--keep-suppressed", help="Write them, with * for what others know.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Of pseudonyms (FEDSIM_PSEUDONYM_KEY_FILE)."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="HTML", help="Write a report, and the same as JSON."),
    ] = None,
    pins: Annotated[
        Path | None,
        typer.Option("--pins", metavar="DIR", help="What was let out (beside the input)."),
    ] = None,
    again: Annotated[
        str, typer.Option("--again", metavar="REASON", help="Let rows out that have been before.")
    ] = "",
    separator: Separator = "",
    encoding: Encoding = "utf-8",
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Write a table in which every class of rows is as large and as mixed as asked for.

    What is written is read again and verified before it gets its name; else nothing is written.
    """
    from fedsim.anonymize.pipeline import Order, anonymize
    from fedsim.anonymize.schema import read_schema
    from fedsim.cli._anonymize_progress import stages
    from fedsim.environment import cpu_limit
    from fedsim.report.anonymization import check_paths, write

    asked = protection(k, diversity, l, c, t, delta, k_map)
    confirmed = read_schema(schema)
    if report is not None:
        check_paths(report, file, output, schema)
    order = Order(
        protection=asked,
        how=recoding,
        max_suppression=max_suppression,
        keep_suppressed=keep_suppressed,
        population=population,
        keys=_keys(confirmed, key),
        pins=pins,
        again=again,
        created=datetime.now(UTC).date().isoformat(),
        separator=separator,
        encoding=encoding,
        processes=processes or cpu_limit(),
    )
    with stages() as say:
        found = anonymize(file, confirmed, output, order, say)
    written = write(found, report) if report is not None else ()
    if as_json:
        paths = {"output": str(output), "report": str(report or "")}
        print_json({"status": "ok", "exit_code": 0, **paths, **found})
        return
    _say(found, output, written)


def _keys(schema: Any, path: Path | None) -> Any:
    """Return the key of pseudonyms where some treatment may need it, or None."""
    import os

    from fedsim.anonymize.pseudonym_keys import FILE_VARIABLE, pseudonym_keys

    if path is None and not os.environ.get(FILE_VARIABLE):
        return None  # a treatment that needs one says so, and names its column
    return pseudonym_keys(path)


def _say(found: dict[str, Any], output: Path, written: tuple[Path, ...]) -> None:
    from fedsim.report.anonymization import summary

    print_table(["", ""], summary(found))
    for leftover in found["leftovers"]:
        sys.stderr.write(
            f"warning: column {leftover['column']!r} has cells that look like {leftover['kind']}\n"
        )
    if found["formulas"]:
        names = ", ".join(map(repr, found["formulas"]))
        sys.stderr.write(f"warning: a spreadsheet would compute cells of {names}: import as text\n")
    for path in (*written, output):
        print(path)
