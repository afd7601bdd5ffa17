"""`fedsim node`: what a node lets run on its data, and what it has let out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._output import Json, print_json, print_table

__all__ = ["app"]

app = typer.Typer(
    help="Decide what runs on a node's own data, and see what has: policy, audit log, ledger.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The node's folder.")]
Experiment = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="A TOML file or a built-in experiment.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
]


@app.command()
def check(
    folder: Folder,
    experiment: Experiment,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say whether an experiment would be allowed on a node, and if not, why."""
    from fedsim import config as configuration
    from fedsim.node.check import would_allow

    found = would_allow(folder, configuration.load(experiment, overrides or ()))
    if as_json:
        status = "refused" if found.reasons else "ok"
        print_json({"status": status, "exit_code": 2 * bool(found.reasons), **found.to_dict()})
    else:
        for reason in found.reasons:
            print(f"refused   {reason}")
        if not found.reasons:
            print("allowed   once it is signed")
        print(f"approvers {', '.join(found.approvers) or 'nobody: nothing can run'}")
        print(f"reads     {', '.join(found.columns) or 'no column of this node'}")
        for unit, epsilon in found.spent.items():
            print(f"spent     epsilon {epsilon:.4g} of {found.maximum_epsilon:g} in unit {unit}")
    if found.reasons:
        raise typer.Exit(2)


@app.command()
def audit(
    folder: Folder,
    last: Annotated[int, typer.Option("--last", min=1, help="Show the last so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Verify a node's audit log and show what it was asked, and what it let out."""
    from dataclasses import asdict

    from fedsim.node.audit import AuditLog
    from fedsim.node.folder import NodeFolder

    links = AuditLog(NodeFolder(folder).audit).links()
    shown = links[-last:]
    end = links[-1].hash if links else ""
    sent = sum(link.entry.sent_bytes for link in links)
    if as_json:
        records = [
            {"number": link.number, "hash": link.hash, **asdict(link.entry)} for link in shown
        ]
        facts = {"entries": len(links), "last_hash": end, "sent_bytes": sent}
        print_json({"status": "ok", "exit_code": 0, **facts, "records": records})
        return
    columns = ["line", "time", "decision", "kind", "round", "rows", "bytes", "experiment", "reason"]
    print_table(columns, [_row(link.number, link.entry) for link in shown])
    print(f"entries    {len(links)}, verified")
    print(f"sent       {sent:,} bytes")
    print(f"last hash  {end or 'none'}")


@app.command()
def declare(
    experiment: Experiment,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="A .json file to write.")
    ] = None,
    with_rows: Annotated[
        bool, typer.Option("--with-rows", help="Declare how many rows each client has, too.")
    ] = False,
) -> None:
    """Read off a pooled table what its clients have in common, to be declared in public.

    What it prints was computed from rows and says something about them: look at it before it is
    given to anybody.
    """
    import json

    from fedsim import config as configuration
    from fedsim.node.check import declared_by

    found = declared_by(configuration.load(experiment, overrides or ()), with_rows=with_rows)
    text = json.dumps(found, indent=2) + "\n"
    if output is None:
        print(text, end="")
        return
    from fedsim.files import replacing

    with replacing(output) as file:
        file.write(text.encode())
    print(f"{output}  what {len(found['clients'])} clients have in common; read it, then set")
    print(f"    data.declared = {str(output)!r}")


@app.command()
def policy() -> None:
    """Print a policy to begin with: it allows little, and explains each key."""
    from fedsim.node.policy import template

    print(template(), end="")


def _row(number: int, record: Any) -> list[Any]:
    place = "" if record.round is None else record.round
    return [
        number,
        record.time,
        record.decision,
        record.kind,
        place,
        record.rows or "",
        record.sent_bytes or "",
        record.experiment[:12],
        record.reason,
    ]
