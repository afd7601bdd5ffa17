"""Simulated adversaries: who they were, what they did, what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.plots import COLORS, figure, svg
from fedsim.report.section import Picture, Section, Table, number

__all__ = ["section"]

_NEEDS = {
    "rows": "trains on poisoned rows",
    "update": "changes its own update before it is sent",
    "updates": "sends what is made from the updates of the others, all of which the adversary sees",
}
_SHOWN = 100


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section | None:
    """Return the attack; nothing where all clients are honest."""
    facts = run.facts.get("attack") or {}
    if not facts:
        return None
    per_round = _series(run, "attack/clients")
    success = _series(run, "attack/success")
    most = int(max((value for _, value in per_round), default=0))
    data = {**facts, "most_in_a_round": most, "success": success}
    names = ", ".join(map(str, facts["clients"][:_SHOWN]))
    more = ", ..." if len(facts["clients"]) > _SHOWN else ""
    rows = [
        ["attack", facts["name"]],
        ["a malicious client", _NEEDS[facts["needs"]]],
        ["malicious clients", f"{len(facts['clients'])} of {facts['population']}: {names}{more}"],
        ["most of them in one round", str(most)],
        ["strategy", facts["strategy"]],
        ["bears in a round", _borne(facts)],
    ]
    if success:
        what = f"test rows of other classes with the trigger that are taken for {facts['target']}"
        rows.append([what, f"{success[-1][1]:.1%} after round {success[-1][0]}"])
    return Section(
        "attack",
        "Simulated adversaries",
        data,
        text="These clients were malicious in the simulation, chosen by the seed or by name. Their "
        "training metrics are in the means above like everybody's.",
        pictures=[_picture(success)] if len(success) > 1 else [],
        tables=[Table("The attack", ["", ""], rows)],
    )


def _borne(facts: Mapping[str, Any]) -> str:
    if facts["f"] is None:
        return "nothing is promised: this strategy is not robust"
    return f"f = {facts['f']} malicious clients"


def _series(run: Any, key: str) -> list[list[float]]:
    return [
        [entry["round"], entry["metrics"][key]]
        for entry in run.rounds
        if entry["metrics"].get(key) is not None
    ]


def _picture(success: Sequence[Sequence[float]]) -> Picture:
    fig, ax = figure()
    x, y = zip(*success, strict=True)
    ax.plot(x, y, color=COLORS[1], linewidth=1.6)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("round", fontsize=9)
    ax.set_ylabel("backdoor success", fontsize=9)
    text = f"Backdoor success over rounds, {number(y[0])} to {number(y[-1])}."
    return Picture(svg(fig, "attack"), text)
