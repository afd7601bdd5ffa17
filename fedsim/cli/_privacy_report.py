"""`fedsim privacy report`: what a run's ledger promises, for people and for programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import Json, Runs, print_json

__all__ = ["report"]


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id, name or 'last'.", autocompletion=run_names)
    ],
    format: Annotated[
        Literal["html", "json", "md"], typer.Option("--format", help="Of the report.")
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it there; - is standard output."),
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Report a run's privacy from its ledger: epsilon, what it means, what it does not cover.

    Into the run's folder as privacy.html, privacy.json or privacy.md; prints the path.
    """
    from fedsim.report.privacy import build, gather, rendered, write
    from fedsim.store import RunStore

    evidence = gather(RunStore(runs), run)
    content = build(evidence)
    if str(output) == "-":
        typer.echo(rendered(content, format), nl=False)
        return
    path = output or evidence.run.folder / f"privacy.{format}"
    write(content, format, path)
    if not as_json:
        print(path)
        return
    found = {"status": "ok", "exit_code": 0, "run": evidence.run.id, "report": str(path)}
    print_json(found | {"guarantee": content["guarantee"]})
