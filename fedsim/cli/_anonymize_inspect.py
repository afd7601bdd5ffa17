"""`fedsim anonymize inspect`: a first draft of a schema."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli._anonymize_options import Encoding, Separator
from fedsim.cli._output import Json, print_json, print_table

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV, TSV or Parquet file.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="TOML", help="Write the draft there.")
    ] = None,
    separator: Separator = "",
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Propose what each column of a table is, with reasons; a person has to confirm it.

    The draft says confirmed = false, and `fedsim anonymize run` refuses it until that is true.
    """
    from fedsim.anonymize.files import open_table, refuse_same_file
    from fedsim.anonymize.proposal import profiles, propose, to_toml
    from fedsim.cli._anonymize_progress import stages
    from fedsim.errors import ConfigError, Problem, SetupError
    from fedsim.files import replacing

    table = open_table(file, separator=separator, encoding=encoding)
    if output is not None:
        refuse_same_file(file, output)
        if output.exists():
            accepted = "a new file: a schema that somebody may have confirmed is not overwritten"
            raise ConfigError([Problem("--output", str(output), accepted)])
    with stages() as say:
        guesses, empty = propose(profiles(table, lambda share: say("reading", share)))
    text = to_toml(table, guesses, empty)
    if output is not None:
        try:
            with replacing(output) as target:
                target.write(text.encode())
        except OSError as error:
            raise SetupError(f"cannot write {output}: {error.strerror or error}") from error
    if as_json:
        columns = [{"name": g.name, **g.to_dict(), "why": list(g.why)} for g in guesses]
        found = {"columns": columns, "empty": list(empty), "output": str(output or "")}
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    if output is None:
        print(text)
        return
    print_table(["column", "role", "why"], [[g.name, g.role, "; ".join(g.why)] for g in guesses])
    sys.stderr.write("Roles are a proposal: look at each, then set confirmed = true.\n")
    print(output)
