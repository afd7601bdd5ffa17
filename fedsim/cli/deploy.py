"""`fedsim deploy`: a real federation, on this machine or on many."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli._complete import experiment_names, run_names
from fedsim.cli._output import DataDir, Json, Runs, print_json, print_table
from fedsim.errors import ConfigError, NetworkError, Problem, SetupError

__all__ = ["app"]

app = typer.Typer(
    help="Run an experiment on a real federation: a server and nodes that each keep their data.",
    no_args_is_help=True,
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[EXPERIMENT] [key=value ...]",
        help="A TOML file or a built-in experiment (default: digits), then overrides.",
        autocompletion=experiment_names,
    ),
]
To = Annotated[Path, typer.Option("--to", metavar="DIR", help="The operator's folder.")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Without TLS and login: whoever reaches the port reads and writes all."
    ),
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="RUN", help="Go on with a run.", autocompletion=run_names),
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    nodes: Annotated[str, typer.Option(help="The nodes' names: hospital-a,hospital-b.")],
    address: Annotated[
        str, typer.Option(help="The name or address by which nodes reach the server.")
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 8000,
    profile: Annotated[str, typer.Option(help="standard (Ed25519) or fips (P-256).")] = "standard",
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long certificates hold.")] = 365,
    as_json: Json = False,
) -> None:
    """Make folders for the operators of a federation: the server, each node, and who submits."""
    from datetime import UTC, datetime

    from fedsim.deploy import bundle

    if profile not in ("standard", "fips"):
        raise ConfigError([Problem("--profile", profile, "standard or fips")])
    names = tuple(name.strip() for name in nodes.split(",") if name.strip())
    plan = bundle.Plan(names, address, port, "fips" if profile == "fips" else "standard", days=days)
    made = bundle.init(folder, plan, now=datetime.now(UTC))
    places = {name: str(made.node(name)) for name in names}
    if as_json:
        own = {"server": str(made.server), "operator": str(made.operator), "nodes": places}
        print_json({"status": "ok", "exit_code": 0, **own})
        return
    print(f"{made.server}  for the server:  fedsim deploy server {made.server}")
    for name, place in places.items():
        print(f"{place}  for {name}:  fedsim deploy node {place}")
    print(
        f"{made.operator}  for who submits:  fedsim deploy submit EXPERIMENT --to {made.operator}"
    )
    print("carry each folder to its machine; no secret of a node is in another's folder")


@app.command()
def server(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The server's folder.")],
    insecure: Insecure = False,
) -> None:
    """Run the server of a federation, until Ctrl-C."""
    from fedsim.deploy.processes import Processes, start_warm, stopping, wait_warm
    from fedsim.deploy.server import start_server
    from fedsim.deploy.warm import SERVER

    with stopping(Processes()) as processes:
        place, home = folder.absolute() / "apps.sock", folder.absolute() / "flwr-home"
        address = start_server(folder, processes, warm=place, is_insecure=insecure)
        start_warm(place, home, processes, [SERVER])
        wait_warm(place, processes)
        _say(f"the server is ready at {address}; Ctrl-C stops it")
        _stay(processes)


@app.command()
def node(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The node's folder.")],
    insecure: Insecure = False,
) -> None:
    """Run a node of a federation, until Ctrl-C."""
    from fedsim.deploy.node import start_node
    from fedsim.deploy.processes import Processes, start_warm, stopping
    from fedsim.deploy.warm import CLIENT

    with stopping(Processes()) as processes:
        place, home = folder.absolute() / "apps.sock", folder.absolute() / "flwr-home"
        settings = start_node(folder, processes, warm=place, is_insecure=insecure)
        start_warm(place, home, processes, [CLIENT])
        _say(f"{settings.name} connects to {settings.address}; Ctrl-C stops it")
        try:
            _stay(processes)
        except SetupError as error:
            if settings.name not in str(error):
                raise
            raise NetworkError(
                f"{error}: {settings.address} did not let it in, or is not there. The server needs "
                f"logins/{settings.name}.pub, made together with supernode.key here"
            ) from error


@app.command()
def submit(
    to: To,
    arguments: Arguments = None,
    resume: Resume = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Sign an experiment, have the federation run it, and follow it to its end.

    Ctrl-C stops following; the run goes on (fedsim deploy stop stops it).
    """
    from fedsim.cli._progress import progress
    from fedsim.cli._result import print_result
    from fedsim.cli.run import split
    from fedsim.deploy import submit as submitting

    if resume:
        if arguments:
            accepted = "nothing beside --resume: a run goes on as it was submitted"
            raise ConfigError([Problem("EXPERIMENT", " ".join(arguments), accepted)])
        submission = submitting.kept(to, resume)
    else:
        experiment, overrides = split(arguments or [])
        submission = submitting.approved(to, submitting.prepared(experiment, overrides))
    with progress() as listener, _connected(to, insecure) as control:
        result = submitting.submit(control, to, submission, listener)
    print_result(result, as_json=as_json)


@app.command()
def local(
    arguments: Arguments = None,
    nodes: Annotated[int, typer.Option(help="How many nodes, each a process.")] = 5,
    resume: Resume = None,
    runs: Runs = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run an experiment on a federation of this machine: keys, server and nodes for one run."""
    from fedsim.cli._progress import progress
    from fedsim.cli._result import print_result
    from fedsim.cli.run import split
    from fedsim.deploy.local import run_local

    experiment, overrides = split(arguments or [])
    with progress() as listener:
        result = run_local(
            experiment,
            overrides,
            nodes,
            runs=runs,
            data_dir=data_dir,
            resume=resume or "",
            tell=listener,
        )
    print_result(result, as_json=as_json)


@app.command()
def status(to: To, insecure: Insecure = False, as_json: Json = False) -> None:
    """Show the nodes of a federation and its runs."""
    with _connected(to, insecure) as control:
        nodes, found = control.nodes(), control.runs()
    if as_json:
        own = {
            "nodes": [{"id": str(n.id), "name": n.name, "status": n.status} for n in nodes],
            "runs": [
                {"id": str(r.id), "status": r.status, "outcome": r.outcome, "details": r.details}
                for r in found
            ],
        }
        print_json({"status": "ok", "exit_code": 0, **own})
        return
    print_table(["node", "status"], [[n.name or n.id, n.status] for n in nodes])
    rows = [[r.id, r.outcome or r.status, r.details] for r in found[-20:]]
    print_table(["Flower's number", "run", "details"], rows)


@app.command()
def logs(
    to: To,
    run: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", help="Flower's number (default: the last).")
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Follow what a run says on the server, to its end."""
    with _connected(to, insecure) as control:
        for line in control.lines(_number(control, run)):
            print(line, flush=True)


@app.command()
def stop(
    to: To,
    run: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", help="Flower's number (default: the last).")
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Stop a run; it can be gone on with by fedsim deploy submit --resume RUN."""
    with _connected(to, insecure) as control:
        number = _number(control, run)
        print(f"run {number} {'is stopped' if control.stop(number) else 'had ended'}")


def _connected(folder: Path, insecure: bool) -> Any:
    """Connect to the server of an operator's folder."""
    from fedsim.deploy.control import connected
    from fedsim.deploy.node import must_know
    from fedsim.deploy.settings import read_operator

    address, certificate = read_operator(folder).address, folder / "ca.crt"
    if not insecure:
        must_know(address, certificate)
    return connected(address, None if insecure else certificate)


def _number(control: Any, run: int | None) -> int:
    from fedsim.errors import UnknownRunError

    known = [each.id for each in control.runs()]
    if not known or (run is not None and run not in known):
        shown = ", ".join(map(str, known[-5:])) or "none"
        which = "run at all" if run is None else f"run {run}"
        raise UnknownRunError(f"the server has no {which}; its last ones: {shown}")
    return run if run is not None else int(known[-1])


def _stay(processes: Any) -> None:
    """Stay as long as the processes do."""
    import time

    while True:
        processes.must_run()
        time.sleep(0.5)


def _say(text: str) -> None:
    import sys

    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
