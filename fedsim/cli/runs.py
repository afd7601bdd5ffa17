"""`fedsim runs`: the runs there are."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import Json, Runs, print_json, print_table

__all__ = ["app"]

app = typer.Typer(help="List, show, compare, export and delete runs.", no_args_is_help=True)

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Id, name or 'last'.", autocompletion=run_names)
]


@app.command("list")
def list_(runs: Runs = None, as_json: Json = False) -> None:
    """List all runs, oldest first."""
    from fedsim.store import RunStore

    found = [_short(run) for run in RunStore(runs).all()]
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "runs": found})
        return
    from fedsim.report.section import number, seconds_text

    rows = [
        [
            run["id"],
            run["status"],
            run["rounds"] if run["metrics"] else "-",
            ", ".join(f"{k} {number(v)}" for k, v in run["metrics"].items() if k[:5] == "test/"),
            seconds_text(run["real_seconds"]),
        ]
        for run in found
    ]
    print_table(["run", "status", "rounds", "test metrics", "real time"], rows)


@app.command()
def show(run: Run, runs: Runs = None, as_json: Json = False) -> None:
    """Show one run: results, partition, environment, configuration."""
    import dataclasses

    from fedsim.store import RunStore

    stored = RunStore(runs).get(run)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "run": dataclasses.asdict(stored)})
        return
    import tomli_w

    from fedsim.report.section import number

    metrics = stored.summary.get("metrics", {})
    rows: list[list[Any]] = [
        ["run", stored.id],
        ["status", stored.status],
        ["started / ended", f"{stored.created[:19]} / {stored.finished[:19] or '-'}"],
        ["rounds", f"{len(stored.rounds)} of {stored.config['rounds']['count']}"],
        ["clients", stored.partition["clients"]],
        ["model sha256", stored.summary.get("model_sha256", "-")],
        ["folder", stored.folder],
        *([name, number(value)] for name, value in sorted(metrics.items())),
    ]
    print_table(["", ""], rows)
    print(tomli_w.dumps(stored.config))


@app.command()
def compare(a: Run, b: Run, runs: Runs = None, as_json: Json = False) -> None:
    """Show what differs between two runs: configuration, code, data, machine, results."""
    from fedsim.store import RunStore
    from fedsim.store import compare as compare_runs

    store = RunStore(runs)
    found = compare_runs(store.get(a), store.get(b))
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **found})
        return
    from fedsim.report.section import number

    for topic in ("configuration", "code", "data", "machine"):
        if found[topic]:
            rows = [[key, pair["a"], pair["b"]] for key, pair in found[topic].items()]
            print_table([topic, *found["runs"]], rows)
        else:
            print(f"{topic}: the same")
    rows = [
        [key, number(row["a"]), number(row["b"]), number(row.get("difference"))]
        for key, row in found["results"].items()
    ]
    print_table(["results", *found["runs"], "difference"], rows)


@app.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the files.")],
    kind: Annotated[str, typer.Option("--format", help="csv, json or parquet.")] = "csv",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write a run's rounds and clients as tables, and its facts as JSON."""
    from fedsim.errors import ConfigError, Problem
    from fedsim.store import RunStore
    from fedsim.store import export as export_run
    from fedsim.store._export import FORMATS

    if kind not in FORMATS:
        raise ConfigError([Problem("--format", kind, f"one of {', '.join(FORMATS)}")])
    paths = export_run(RunStore(runs), run, kind, folder)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "files": [str(path) for path in paths]})
    else:
        print("\n".join(map(str, paths)))


@app.command()
def unseal(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the files.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write the model and the log of a sealed run (storage.encrypt) as readable files."""
    from fedsim.run_files import unsealed
    from fedsim.store import RunStore

    stored = RunStore(runs).get(run)
    paths = unsealed(stored.folder, stored.id, stored.config, folder)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "files": [str(path) for path in paths]})
    else:
        print("\n".join(map(str, paths)))


@app.command()
def delete(
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Delete a run with its records, model, checkpoint and report."""
    from fedsim.store import RunStore

    store = RunStore(runs)
    stored = store.get(run)
    if not yes:
        typer.confirm(f"Delete {stored.id} and {stored.folder}?", abort=True, err=True)
    store.delete(stored.id)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "deleted": stored.id})
    else:
        print(f"deleted {stored.id}")


def _short(run: Any) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "created": run.created,
        "rounds": run.summary.get("rounds", 0),
        "metrics": run.summary.get("metrics", {}),
        "real_seconds": run.summary.get("real_seconds", 0.0),
    }
