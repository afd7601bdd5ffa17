"""`fedsim privacy ledger`: what was spent on a data set, and what remains."""

from typing import Annotated, Any, cast

import typer

from fedsim.cli._complete import run_names
from fedsim.cli._output import Json, Runs, print_json, print_table

__all__ = ["ledger"]


def ledger(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Id, name or 'last'.", autocompletion=run_names),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Of a data set, all its runs.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", metavar="U", help="example, user or local.")
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Verify ledgers and say what was spent, by whom, when, and what remains of the cap.

    Of the ledgers that RUN wrote into, of a data set's, or of all in the run store.
    """
    from fedsim.store import RunStore, spending, spending_of_run

    _check(run, dataset, unit)
    store = RunStore(runs)
    found = (
        spending_of_run(store, run)
        if run
        else spending(store, dataset=dataset, unit=cast(Any, unit))
    )
    if as_json:
        print_json({"status": "ok", "exit_code": 0, "ledgers": found})
        return
    if not found:
        what = f"run {run}" if run else f"any run in {store.root}"
        print(f"{what} has spent nothing: there is no ledger")
    for place, each in enumerate(found):
        if place:
            print()
        _print(each)


def _check(run: str | None, dataset: str | None, unit: str | None) -> None:
    from typing import get_args

    from fedsim.errors import ConfigError, Problem
    from fedsim.privacy.events import Unit
    from fedsim.registry import suggest

    units, problems = get_args(Unit), []
    if run and (dataset or unit):
        where, value = ("--dataset", dataset) if dataset else ("--unit", unit)
        problems.append(Problem(where, value, "not together with a run, which has its own"))
    if unit is not None and unit not in units:
        accepted = f"one of {', '.join(units)}"
        problems.append(Problem("--unit", unit, accepted, suggest(unit, units)))
    if problems:
        raise ConfigError(problems)


def _print(found: dict[str, Any]) -> None:
    if not found["entries"]:
        print_table([f"ledger {found['path']}", ""], [["entries", "0, verified"]])
        return
    cap = found["cap"]
    rows = [
        ["entries", f"{found['entries']:,}, verified"],
        ["last hash", found["hash"]],
        ["file", found["path"]],
        ["spent", f"epsilon {found['epsilon']:.4g} at delta {found['delta']:g}"],
    ]
    if cap:
        rows += [
            ["cap", f"epsilon {cap['epsilon']:g} at delta {cap['delta']:g}"],
            ["remains", f"epsilon {found['remaining']:.4g}"],
        ]
        if found["rounds_left"] is not None:
            rows.append(["more rounds like the last", f"{found['rounds_left']:,}"])
        if found["clients"]:
            parts = [f"{key} {_span(*pair)}" for key, pair in found["clients"].items()]
            rows.append(["by client", ", ".join(parts)])
    rows += [["set aside", f"{file}: unfinished, nothing was released"] for file in found["torn"]]
    title = f"data set {found['dataset']}, unit {found['unit']}, adjacency {found['adjacency']}"
    print_table([title, ""], rows)
    print_table(
        ["run", "status", "unit", "rounds", "entries", "first", "last", "epsilon alone"],
        [
            [
                each["run"],
                each["status"],
                each["unit"],
                _rounds(each),
                f"{each['entries']:,}",
                each["first"][:19],
                each["last"][:19],
                f"{each['epsilon']:.4g}",
            ]
            for each in found["runs"]
        ],
    )
    for each in found["runs"]:
        if own := each.get("by_client"):
            spent = ", ".join(f"{key} {_span(*pair)}" for key, pair in own["coarse"].items())
            print(f"clients' own accounts in {each['run']}, of {own['budget']:g} each: {spent}")


def _span(low: float, high: float) -> str:
    return f"{low:.3g}-{high:.3g}"


def _rounds(found: dict[str, Any]) -> str:
    first, last = found["rounds"]
    again = f", {found['repeated']} again" if found["repeated"] else ""
    return (f"{first}" if first == last else f"{first}-{last}") + again
