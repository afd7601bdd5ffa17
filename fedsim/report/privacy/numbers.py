"""The guarantee in numbers: epsilon, what it means, and how it was found."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.privacy import accounting
from fedsim.privacy.events import Adjacency, Release, Unit
from fedsim.privacy.ledger import Entry
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.spent import Spends, of_client, spends
from fedsim.report.privacy.words import UNITS, neighbours, plain

__all__ = [
    "accounting_of",
    "accounts",
    "adjacency_of",
    "delta_of",
    "guarantee",
    "plots",
    "rounds_without_entry",
]

DELTA = 1e-5  # where the run does not say at which delta to report
_GROUPS = (2, 5, 10)
_RATES = (0.01, 0.001)
_POINTS = (40, 20, 10)  # rounds in the plot of epsilon, of 1, 2 or more kinds of release


def delta_of(evidence: Evidence) -> float:
    """Return the delta that everything is reported at."""
    return float(evidence.privacy.get("delta") or DELTA)


def adjacency_of(evidence: Evidence) -> Adjacency:
    """Return the adjacency of the ledger, or what the unit's would be."""
    if evidence.receipts:
        return evidence.receipts[0].entry.adjacency
    unit: Unit = evidence.privacy["unit"]
    return accounting.ADJACENCY[unit]


def accounts(evidence: Evidence) -> tuple[Spends, Spends]:
    """Return what this run spent, and what all runs on the data set did."""
    delta, adjacency = delta_of(evidence), adjacency_of(evidence)
    own = spends(evidence.own, delta, adjacency, evidence.population)
    if len(evidence.own) == len(evidence.every):
        return own, own
    return own, spends(evidence.every, delta, adjacency, evidence.population)


def guarantee(
    evidence: Evidence, own: Spends, total: Spends, short: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the promise: of this run alone, and of the data set.

    `short`: rounds that had less noise than is accounted. No epsilon is stated then.
    """
    unit: Unit = evidence.privacy["unit"]
    noise = str(evidence.privacy.get("noise") or "secret")
    adjacency, delta = adjacency_of(evidence), delta_of(evidence)
    return {
        "holds": noise == "secret" and not rounds_without_entry(evidence) and not short,
        "flavour": "(epsilon, delta)-differential privacy",
        "unit": unit,
        "unit_means": UNITS[unit],
        "adjacency": adjacency,
        "adjacency_means": neighbours(unit, adjacency),
        "delta": delta,
        "run": _no_promise(short) if short else _promise(own, delta),
        "data_set": (_no_promise(short) if short else _promise(total, delta))
        | {
            "runs": len(evidence.noise),
            "holds": all(noise == "secret" for noise in evidence.noise.values()),
        },
    }


def rounds_without_entry(evidence: Evidence) -> list[int]:
    """Return the rounds that took place without being in the ledger: there must be none."""
    written = {entry.round for entry in evidence.own}
    return [row["round"] for row in evidence.run.rounds if row["round"] not in written]


def _no_promise(short: Sequence[int]) -> dict[str, Any]:
    """Return what is promised where there was less noise than is accounted: nothing."""
    rates = [{"false_positive_rate": rate, "at_most": 1.0} for rate in _RATES]
    note = (
        f"in {len(short)} round(s), the first of them {short[0]}, fewer clients survived than the "
        "noise was calibrated to"
    )
    return {"epsilon": "infinity", "method": "rdp", "note": note, "true_positive_rate": rates}


def _promise(found: Spends, delta: float) -> dict[str, Any]:
    bound = found.account.bound(delta)
    is_exact = found.epsilon >= bound.epsilon
    return {
        "epsilon": plain(found.epsilon),
        "method": bound.method if is_exact else "rdp",
        "note": "; ".join(filter(None, (bound.note, *found.account.notes))),
        "true_positive_rate": [
            {
                "false_positive_rate": rate,
                "at_most": accounting.true_positive_rate(found.account, rate),
            }
            for rate in _RATES
        ],
    }


def accounting_of(evidence: Evidence, found: Spends) -> dict[str, Any]:
    """Return how this run's epsilon was found, and what else is known of it."""
    delta, adjacency, account = delta_of(evidence), adjacency_of(evidence), found.account
    plain_account = accounting.account(found.worst.releases, adjacency, amplified=False)
    mu, gap = accounting.mu(account)
    return {
        "library": "dp-accounting",
        "version": importlib.metadata.version("dp-accounting"),
        "of": "the client that spent most" if len(found.epsilons) > 1 else "every client",
        "interval": account.interval,
        "releases": [release.to_dict() for release in found.worst.releases],
        "epsilons": [
            {
                "delta": each,
                "epsilon": plain(found.epsilon if each == delta else account.epsilon(each)),
                "renyi": plain(account.renyi.epsilon(each)),
                "without_amplification": plain(plain_account.epsilon(each)),
            }
            for each in deltas(delta)
        ],
        "mu": {"mu": plain(mu), "gap": gap},
        "groups": [
            {"size": size, "epsilon": plain(accounting.group_epsilon(account, size, delta))}
            for size in _GROUPS
        ],
    }


def deltas(delta: float) -> tuple[float, float, float]:
    """Return the three deltas that epsilon is shown at."""
    return delta, delta / 10, delta / 100


def plots(evidence: Evidence, own: Spends, total: Spends) -> dict[str, Any]:
    """Return the points of the plots, as lists of numbers."""
    return {
        "trajectory": _trajectory(evidence, own, total),
        "curve": _curve(own.account, delta_of(evidence)),
        "roc": _roc(own.account),
    }


def _trajectory(evidence: Evidence, own: Spends, total: Spends) -> dict[str, Any]:
    """Return epsilon after rounds: of the client that ends with most, at three deltas."""
    adjacency, three = adjacency_of(evidence), deltas(delta_of(evidence))
    rounds = [of_client(entry, own.worst.one) for entry in evidence.own]
    points = _points(rounds)
    shown, epsilons = accounting.trajectory(rounds, three, adjacency, points=points)
    content: dict[str, Any] = {
        "entries": shown,
        "rounds": [evidence.own[at - 1].round for at in shown],
        "epsilons": [
            {"delta": delta, "epsilon": [plain(value) for value in values]}
            for delta, values in zip(three, epsilons, strict=True)
        ],
        "data_set": None,
    }
    if total is not own and rounds:
        groups = _up_to_each(evidence.every, evidence.run.id, total.worst.one)
        _, found = accounting.trajectory(groups, three[:1], adjacency, points=points)
        content["data_set"] = [plain(value) for value in found[0]]
    return content


def _points(rounds: Sequence[Sequence[Release]]) -> int:
    """Return how many rounds to show: each takes a composition, which is slower of more kinds."""
    kinds = {release for releases in rounds for release in releases}
    return _POINTS[min(max(len(kinds), 1), len(_POINTS)) - 1]


def _up_to_each(entries: Sequence[Entry], run: str, client: int | None) -> list[list[Release]]:
    """Return what was released, by whichever run, up to each entry of a run since its last."""
    groups: list[list[Release]] = []
    since: list[Release] = []
    for entry in entries:
        since += of_client(entry, client)
        if entry.run == run:
            groups.append(since)
            since = []
    return groups


def _curve(account: accounting.Account, delta: float) -> dict[str, Any]:
    """Return delta as a function of epsilon, from 0 to where it is a ten-thousandth of delta."""
    top = account.epsilon(delta / 1e4)
    if not 0 < top < float("inf"):
        return {"epsilons": [], "deltas": []}
    epsilons = np.linspace(0, top, 81)
    return {"epsilons": epsilons.tolist(), "deltas": account.deltas(epsilons).tolist()}


def _roc(account: accounting.Account) -> dict[str, Any]:
    rates = np.concatenate([np.geomspace(1e-4, 0.1, 13), np.linspace(0.2, 1, 9)]).tolist()
    found = [accounting.true_positive_rate(account, rate) for rate in rates]
    return {"false_positive_rates": rates, "true_positive_rates": found}
