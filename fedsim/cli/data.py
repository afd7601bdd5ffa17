"""`fedsim data`: the data sets there are."""

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli._output import DataDir, Json, print_json, print_table

__all__ = ["app"]

app = typer.Typer(help="List, show and fetch data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets and whether their files are here."""
    from fedsim import data, registry

    found = [data.describe(name, _folder(data_dir)) for name in registry.names("data")]
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "data": found})
        return
    rows = [[d["name"], d["task"], d["examples"], d["place"], d["summary"]] for d in found]
    print_table(["name", "task", "examples", "files", "what"], rows)


@app.command()
def show(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show one data set: what it is, its files, hashes, source and licence."""
    from fedsim import data

    found = data.describe(name, _folder(data_dir))
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    facts = [[key, value] for key, value in found.items() if key != "files"]
    files = [["file", f"{f['path']}  sha256 {f['sha256']}  {f['url']}"] for f in found["files"]]
    print_table(["", ""], facts + files)


@app.command()
def fetch(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Download a data set's files if they are missing, and verify them."""
    from fedsim import data

    paths = data.fetch(name, _folder(data_dir))
    if as_json:
        files = [str(path) for path in paths]
        print_json({"status": "ok", "exit_code": 0, "name": name, "files": files})
    else:
        print("\n".join(map(str, paths)) or f"{name} needs no files")


def _folder(data_dir: str | None) -> Path | None:
    return Path(data_dir) if data_dir else None
