"""The `fedsim` command: its subcommands, and how errors end it."""

import os
import sys
import traceback

import typer

from fedsim import __version__
from fedsim.cli import (
    anonymize,
    cluster,
    data,
    deploy,
    doctor,
    explain,
    keys,
    new,
    node,
    parts,
    plan,
    privacy,
    report,
    reproduce,
    resume,
    run,
    runs,
    sweep,
)
from fedsim.cli._output import fail
from fedsim.errors import FedsimError

__all__ = ["app", "main"]

app = typer.Typer(
    name="fedsim",
    help="Federated learning, simulated the way it will be deployed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fedsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Federated learning, simulated the way it will be deployed."""


app.command("run")(run.run)
app.command("resume")(resume.resume)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("sweep")(sweep.sweep)
app.command("compare")(sweep.compare)
app.command("plan")(plan.plan)
app.command("new")(new.new)
app.command("explain")(explain.explain)
app.command("doctor")(doctor.doctor)
app.add_typer(runs.app, name="runs")
app.add_typer(cluster.app, name="cluster")
app.add_typer(data.app, name="data")
app.add_typer(privacy.app, name="privacy")
app.add_typer(anonymize.app, name="anonymize")
app.add_typer(keys.app, name="keys")
app.add_typer(deploy.app, name="deploy")
app.add_typer(node.app, name="node")
for _name, _app in parts.apps().items():
    app.add_typer(_app, name=_name)


def main() -> None:
    """Run the command line; the exit codes are those of `fedsim.errors`."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    as_json = "--json" in sys.argv
    try:
        app()
    except FedsimError as error:
        fail(error, as_json=as_json)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader of our output is gone (`fedsim runs list | head`): nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write("This is a defect of fedsim or of a part of yours; please report it.\n")
        fail(error, as_json=as_json)
        code = 1
    else:
        code = 0
    ray = sys.modules.get("fedsim.engine.own_ray")
    if ray is not None and ray.is_abandoned():  # its processes end with this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
