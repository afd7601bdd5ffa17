"""`fedsim privacy plan`: what epsilon costs in noise, rounds and clients; trains nothing."""

import math
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fedsim.cli._output import Json, print_json, print_table
from fedsim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from fedsim.privacy.plan import Alternative, Outcome, Plan

__all__ = ["plan"]

_NAMES = {
    "epsilon": "epsilon",
    "noise_multiplier": "noise multiplier",
    "rounds": "rounds",
    "cohort": "cohort",
}


def plan(
    clients: Annotated[int, typer.Option("--clients", metavar="N", help="How many there are.")],
    *,
    unit: Annotated[
        str, typer.Option("--unit", metavar="U", help="Whose data it hides: user, example, local.")
    ] = "user",
    cohort: Annotated[
        int | None, typer.Option("--cohort", metavar="N", help="Clients asked each round.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", metavar="N")] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", metavar="D", help="Default: members^-1.1.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", metavar="E")] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            "--noise-multiplier", metavar="Z", help="Noise's standard deviation / sensitivity."
        ),
    ] = None,
    sampling: Annotated[
        str,
        typer.Option(
            "--sampling", metavar="S", help="Of clients: truncated, poisson, fixed, all, cyclic."
        ),
    ] = "truncated",
    mechanism: Annotated[
        str,
        typer.Option(
            "--mechanism",
            metavar="M",
            help="Of unit user: gaussian, or noise by clients: skellam, discrete-gaussian.",
        ),
    ] = "gaussian",
    dimension: Annotated[
        int | None,
        typer.Option("--dimension", metavar="N", help="Noise by clients: the model's parameters."),
    ] = None,
    bits: Annotated[
        int, typer.Option("--bits", metavar="N", help="Noise by clients: of a number sent.")
    ] = 20,
    examples: Annotated[
        int | None, typer.Option("--examples", metavar="N", help="Unit example: of one client.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Unit example: expected.")
    ] = None,
    local_steps: Annotated[
        int | None, typer.Option("--local-steps", metavar="N", help="Unit example: a round.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the one of epsilon, noise multiplier, rounds and cohort that is not given."""
    from fedsim.privacy import plan as planning

    given = {
        "--unit": unit,
        "--clients": clients,
        "--cohort": clients if cohort is None and sampling == "all" else cohort,
        "--rounds": rounds,
        "--delta": delta,
        "--epsilon": epsilon,
        "--noise-multiplier": noise_multiplier,
        "--sampling": sampling,
        "--mechanism": mechanism,
        "--dimension": dimension,
        "--bits": bits,
        "--examples": examples,
        "--batch-size": batch_size,
        "--local-steps": local_steps,
    }
    asked = _plan(given)
    try:
        found = planning.outcome(asked)
    except ValueError as error:
        raise ConfigError([Problem("--epsilon", epsilon, f"more: {error}")]) from error
    others = planning.alternatives(found.plan)
    if as_json:
        print_json({"status": "ok", "exit_code": 0, **_plain(found, others)})
    else:
        _show(found, others)


def _plan(given: dict[str, Any]) -> "Plan":
    """Return what is asked for. Raises `ConfigError` with everything that is wrong."""
    from fedsim.privacy.plan import Batches, ByClients, Plan

    problems = [*_wrong_names(given), *_wrong_numbers(given), *_wrong_batches(given)]
    problems += _wrong_noise(given)
    if not problems:
        problems = _wrong_together(given)
    if problems:
        raise ConfigError(problems)
    batches, members = None, given["--clients"]
    if given["--unit"] == "example":
        batches = Batches(given["--examples"], given["--batch-size"], given["--local-steps"])
        members *= batches.examples
    return Plan(
        given["--unit"],
        given["--clients"],
        members**-1.1 if given["--delta"] is None else given["--delta"],
        given["--sampling"],
        batches,
        given["--epsilon"],
        given["--noise-multiplier"],
        given["--rounds"],
        given["--cohort"],
        None
        if given["--mechanism"] == "gaussian"
        else ByClients(given["--mechanism"], given["--dimension"], given["--bits"]),
    )


def _wrong_names(given: dict[str, Any]) -> list[Problem]:
    from fedsim.privacy.events import DISCRETE, Unit
    from fedsim.privacy.plan import ClientSampling

    accepted = {
        "--unit": get_args(Unit),
        "--sampling": get_args(ClientSampling),
        "--mechanism": ("gaussian", *DISCRETE),
    }
    return [
        Problem(name, given[name], f"one of {', '.join(names)}")
        for name, names in accepted.items()
        if given[name] not in names
    ]


def _wrong_numbers(given: dict[str, Any]) -> list[Problem]:
    whole = (
        *("--clients", "--cohort", "--rounds"),
        *("--examples", "--batch-size", "--local-steps", "--dimension"),
    )
    found = [
        Problem(name, given[name], "a whole number of 1 or more")
        for name in whole
        if given[name] is not None and given[name] < 1
    ]
    for name in ("--epsilon", "--noise-multiplier"):
        value = given[name]
        if value is not None and not (value > 0 and math.isfinite(value)):
            found.append(Problem(name, value, "a number above 0"))
    delta = given["--delta"]
    if delta is not None and not 0 < delta < 1:
        found.append(Problem("--delta", delta, "a number between 0 and 1"))
    return found


def _wrong_noise(given: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with noise that clients add."""
    if given["--mechanism"] == "gaussian":
        if given["--dimension"] is None:
            return []
        return [Problem("--dimension", given["--dimension"], "of noise by clients only")]
    found = []
    if given["--unit"] != "user":
        accepted = "'gaussian' in units other than user"
        found.append(Problem("--mechanism", given["--mechanism"], accepted))
    if given["--sampling"] == "poisson":
        accepted = "truncated, fixed, all or cyclic with noise by clients"
        found.append(Problem("--sampling", "poisson", accepted))
    if given["--dimension"] is None:
        hint = "Wider models need more bits."
        found.append(Problem("--dimension", None, "the number of the model's parameters", hint))
    if given["--bits"] not in range(8, 33, 4):
        found.append(Problem("--bits", given["--bits"], "one of 8, 12, ... 32"))
    return found


def _wrong_batches(given: dict[str, Any]) -> list[Problem]:
    names = ("--examples", "--batch-size", "--local-steps")
    if given["--unit"] != "example":
        hint = "Clients of the other units release one update a round."
        return [
            Problem(name, given[name], "unit example only", hint)
            for name in names
            if given[name] is not None
        ]
    missing = [name for name in names if given[name] is None]
    return [Problem(name, None, "needed for unit example, of one client") for name in missing]


def _wrong_together(given: dict[str, Any]) -> list[Problem]:
    cohort, clients = given["--cohort"], given["--clients"]
    if cohort is not None and cohort > clients:
        return [Problem("--cohort", cohort, f"at most the {clients} clients")]
    if given["--sampling"] == "all" and cohort != clients:
        hint = "Leave it out, or use --sampling cyclic."
        return [Problem("--cohort", cohort, f"all {clients} clients, with --sampling all", hint)]
    if given["--unit"] == "example" and given["--batch-size"] > given["--examples"]:
        return [
            Problem(
                "--batch-size", given["--batch-size"], f"at most the {given['--examples']} examples"
            )
        ]
    options = ("--epsilon", "--noise-multiplier", "--rounds", "--cohort")
    left = [name for name in options if given[name] is None]
    if len(left) == 1:
        return []
    accepted = f"all but one of {', '.join(options)}: the one left out is found"
    if left:
        return [Problem(name, None, accepted) for name in left]
    return [Problem("--epsilon", given["--epsilon"], accepted, "All four are given.")]


def _plain(found: "Outcome", others: "list[Alternative]") -> dict[str, Any]:
    import dataclasses

    content = dataclasses.asdict(found)
    run = content.pop("plan")
    run |= {"batches": run["batches"] or {}}
    return {**run, **content, "alternatives": [dataclasses.asdict(other) for other in others]}


def _show(found: "Outcome", others: "list[Alternative]") -> None:
    run = found.plan
    rows: list[list[Any]] = [
        ["hides", _HIDES[run.unit]],
        ["clients", f"{run.clients:,}, of whom {run.cohort:,} take part ({run.sampling})"],
        ["rounds", f"{run.rounds:,}"],
        *_more(found),
        ["noise multiplier", f"{run.noise_multiplier:.4g}"],
        ["noise in a mean", f"{found.noise_of_mean:.3g} clipping norms"],
        ["epsilon", f"{found.spent:.4g} at delta {run.delta:.3g}"],
        ["without amplification", f"{found.unamplified:.4g} (if who takes part were known)"],
        ["any two together", f"{found.pairs:.4g}"],
        ["what it means", _meaning(found.detected)],
    ]
    print_table([f"{_NAMES[found.found]} was found", ""], rows)
    print_table(
        ["epsilon", "rounds", "cohort", "noise multiplier"],
        [
            [f"{o.epsilon:.4g}", *_marked(o, _OTHERS)]
            for o in sorted(others, key=lambda o: o.epsilon)
        ],
        title="or, with one number changed (<)",
    )
    for note in found.notes:
        print(note)


_OTHERS = ("rounds", "cohort", "noise_multiplier")
_HIDES = {
    "user": "all of a client's data, from who sees the models",
    "example": "one example of a client, from everybody else, the server too",
    "local": "all of a client's data, from everybody else, the server too",
}


def _more(found: "Outcome") -> list[list[str]]:
    """Return what is said of one client where each client has an epsilon of its own."""
    from fedsim.privacy.plan import noise_of_clients

    batches, by_clients = found.plan.batches, found.plan.by_clients
    rows = []
    if by_clients is not None:
        own = noise_of_clients(found.plan, by_clients)
        text = f"{own.mechanism}, by clients, {own.bits} bits: that of {own.shares:,} counts"
        text += f", {own.colluders:,} may collude; epsilon by Rényi divergences"
        rows.append(["noise", text])
    if found.plan.unit != "user":
        text = f"{found.participations:,} rounds of one client, at most (99% sure of all clients)"
        rows.append(["counted for", text])
    if batches is not None:
        text = f"{batches.local_steps:,} a round, each of about {batches.batch_size:,} examples"
        text += f" out of {batches.examples:,}"
        rows.append(["local steps", text])
    return rows


def _meaning(detected: float) -> str:
    return (
        f"a test for one member that is wrongly positive in 1% finds {detected:.1%} of them at most"
    )


def _marked(other: "Alternative", names: tuple[str, ...]) -> list[str]:
    values = [getattr(other, name) for name in names]
    texts = [f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in values]
    return [
        f"{text} <" if name == other.changed else text
        for name, text in zip(names, texts, strict=True)
    ]
