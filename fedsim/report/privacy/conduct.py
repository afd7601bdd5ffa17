"""How the run went about its budget: rounds, caps, other runs, and whether records agree."""

from collections import Counter
from dataclasses import replace
from typing import Any

from fedsim.privacy.budget import Budget, coarse
from fedsim.privacy.events import DISCRETE
from fedsim.privacy.ledger import Entry
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.numbers import adjacency_of, delta_of, rounds_without_entry
from fedsim.report.privacy.spent import Spends, spends
from fedsim.report.privacy.words import NOT_RECORDED, SEEDED, bound, plain

__all__ = ["budget", "checks", "clients", "ledger", "rounds", "runs"]

_UNLIKELY = 1e-3  # p-values below are not put down to chance
_LISTED = 100  # rounds that are named one by one

Check = tuple[str, str, str]


def rounds(evidence: Evidence) -> dict[str, Any]:
    """Return what was planned, written down, finished, repeated, refused and never reached."""
    times = Counter(entry.round for entry in evidence.own)
    finished = {row["round"] for row in evidence.run.rounds}
    planned = int((evidence.run.config.get("rounds") or {}).get("count") or 0)
    reached = set(times) | finished
    refused = evidence.refused
    return {
        "planned": planned or NOT_RECORDED,
        "entries": len(evidence.own),
        "in_ledger": len(times),
        "finished": len(finished),
        "repeated": [{"round": n, "times": k} for n, k in sorted(times.items()) if k > 1],
        "unfinished": _ranges(set(times) - finished),
        "without_entry": _ranges(set(rounds_without_entry(evidence))),
        "not_reached": _ranges(set(range(1, planned + 1)) - reached),
        "refused": NOT_RECORDED
        if refused is None
        else [{"round": r.round, "time": r.time, "reason": r.reason} for r in refused],
        "first": evidence.own[0].time if evidence.own else NOT_RECORDED,
        "last": evidence.own[-1].time if evidence.own else NOT_RECORDED,
    }


def _ranges(numbers: set[int]) -> list[list[int]]:
    """Return numbers as [first, last], in order.

    >>> _ranges({1, 2, 3, 7})
    [[1, 3], [7, 7]]
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def budget(evidence: Evidence, own: Spends, total: Spends) -> dict[str, Any]:
    """Return cap, spent, what remains, and what all of the run's plan would come to."""
    epsilon, delta = evidence.privacy.get("epsilon"), delta_of(evidence)
    cap = float(epsilon) if epsilon else None
    return {
        "cap": {"epsilon": cap, "delta": delta} if cap else None,
        "spent_by_run": plain(own.epsilon),
        "spent_on_data_set": plain(total.epsilon),
        "remaining": max(0.0, cap - total.epsilon) if cap else None,
        "planned": _planned(evidence),
    }


def _planned(evidence: Evidence) -> dict[str, Any] | None:
    """Return what the first entry says that the run would release, all of it."""
    first = next(iter(evidence.own), None)
    if first is None or not first.plan:
        return None
    found = spends([replace(first, spends=first.plan)], delta_of(evidence), adjacency_of(evidence))
    return {
        "epsilon": plain(found.epsilon),
        "releases": [release.to_dict() for release in found.worst.releases],
    }


def clients(evidence: Evidence, found: Spends) -> dict[str, Any] | None:
    """Return how much clients spent, coarsely; None where all of them spent the same.

    Least, median and most are quarters of the cap, or of the most where there is none; of accounts
    of their own, of that budget, which they are promised to be within.
    """
    if evidence.spent_by_clients is not None:
        return {
            "most_exactly": plain(found.epsilon),
            "quarters_of": float(evidence.privacy["client_epsilon"]),
            "coarse": {key: list(pair) for key, pair in evidence.spent_by_clients.items()},
        }
    if len(found.epsilons) < 2:
        return None
    cap = float(evidence.privacy.get("epsilon") or found.epsilon)
    if not 0 < cap < float("inf"):
        return {"most_exactly": plain(found.epsilon), "quarters_of": None, "coarse": None}
    every = [epsilon for epsilon, clients in found.epsilons for _ in range(clients)]
    bins = coarse(every, Budget(cap, delta_of(evidence)))
    return {
        "most_exactly": plain(found.epsilon),
        "quarters_of": cap,
        "coarse": {key: [low, high] for key, (low, high) in bins.items()},
    }


def runs(evidence: Evidence) -> list[dict[str, Any]]:
    """Return every run in the ledger, with the epsilon that it would have alone."""
    by_run: dict[str, list[Entry]] = {}
    for entry in evidence.every:
        by_run.setdefault(entry.run, []).append(entry)
    delta, adjacency, population = delta_of(evidence), adjacency_of(evidence), evidence.population
    return [
        {
            "run": name,
            "is_this": name == evidence.run.id,
            "noise": evidence.noise[name],
            "entries": len(own),
            "rounds": [min(e.round for e in own), max(e.round for e in own)],
            "first": own[0].time,
            "last": own[-1].time,
            "epsilon": plain(spends(own, delta, adjacency, population).epsilon),
        }
        for name, own in by_run.items()
    ]


def ledger(evidence: Evidence) -> dict[str, Any]:
    """Return what identifies the ledger as it was read."""
    last = evidence.receipts[-1] if evidence.receipts else None
    return {
        "file": evidence.ledger or "none: nothing was spent",
        "entries": len(evidence.receipts),
        "hash": last.hash if last else "",
        "verified": True,
        "set_aside": evidence.torn,
        "other_units": list(evidence.elsewhere),
        "data_sha256": str(evidence.run.facts.get("data_sha256", NOT_RECORDED)),
    }


def checks(evidence: Evidence, drawn: dict[str, Any], total: Spends) -> list[dict[str, str]]:
    """Return whether the records agree with each other: pass, warn or fail, each with a reason."""
    found: list[Check | None] = [
        _noise(evidence),
        _chain(evidence),
        _covered(evidence),
        _configured(evidence),
        _drawn(drawn),
        _delta(evidence),
        _cap(evidence, total),
        _bare(evidence),
    ]
    return [
        {"status": status, "check": what, "reason": why}
        for status, what, why in (each for each in found if each)
    ]


def _noise(evidence: Evidence) -> Check:
    what = "The noise is secret"
    seeded = sorted(name for name, noise in evidence.noise.items() if noise == "seeded")
    if evidence.privacy.get("noise") == "seeded":
        return "fail", what, f"{SEEDED}; who knows the seed can subtract the noise"
    if seeded:
        return "fail", what, f"of this run; but not of {', '.join(seeded[:3])} on the same data"
    gone = [name for name, noise in evidence.noise.items() if noise == "unknown"]
    if gone:
        return "warn", what, f"of this run; {len(gone)} other run(s) were deleted: nobody knows"
    return "pass", what, "keys come from the operating system and are kept nowhere"


def _chain(evidence: Evidence) -> Check:
    what = "The ledger is whole"
    if not evidence.receipts:
        return "warn", what, "there is no entry: nothing was spent, or it was spent elsewhere"
    why = f"hash chain of {len(evidence.receipts):,} entries, and what runs know of them"
    if evidence.torn:
        why += f"; {evidence.torn} unfinished line(s) set aside, for which nothing was released"
    return "pass", what, why


def _covered(evidence: Evidence) -> Check:
    what = "Every round is in the ledger"
    missing = rounds_without_entry(evidence)
    if missing:
        return "fail", what, f"{len(missing)} round(s) took place without: first {missing[0]}"
    return "pass", what, f"{len(evidence.run.rounds):,} finished, {len(evidence.own):,} entries"


def _configured(evidence: Evidence) -> Check | None:
    """Compare the ledger with the run's settings, where those say the same thing."""
    privacy, what = evidence.privacy, "The ledger has the noise that was configured"
    wanted = privacy.get("noise_multiplier")
    names = ("gaussian", *DISCRETE)
    is_plain = privacy["unit"] != "local" and privacy.get("mechanism", "gaussian") in names
    is_plain &= privacy.get("client_epsilon") is None  # then it has the clients' budget
    if not is_plain or wanted is None or not evidence.own:
        return None
    found = {s.release.noise_multiplier for entry in evidence.own for s in entry.spends}
    if found == {wanted}:
        return "pass", what, f"noise multiplier {wanted:g} in every entry"
    return "fail", what, f"configured {wanted:g}, in the ledger {sorted(found)[:3]}"


def _drawn(drawn: dict[str, Any]) -> Check | None:
    what = "Cohorts are as they were accounted"
    values = [drawn[key] for key in ("p_mean", "p_spread") if isinstance(drawn[key], float)]
    if not values:
        return None
    why = f"p = {min(values):.2g} for their sizes under the sampling of the ledger"
    return ("fail" if min(values) < _UNLIKELY / len(values) else "pass"), what, why


def _delta(evidence: Evidence) -> Check:
    what, delta = "Delta is below 1 / members", delta_of(evidence)
    is_example = evidence.privacy["unit"] == "example"
    members = evidence.run.partition.get("examples") if is_example else evidence.population
    if not members:
        return "warn", what, f"{delta:.3g}; how many there are to protect is not recorded"
    of = f"{delta:.3g}, of {members:,} {'examples' if is_example else 'clients'}"
    return ("pass" if delta < 1 / members else "fail"), what, of


def _cap(evidence: Evidence, total: Spends) -> Check:
    what, cap = "The budget is kept", evidence.privacy.get("epsilon")
    spent = f"spent {bound(total.epsilon)}"
    if not cap:
        return "warn", what, f"{spent}; the run had no cap"
    status = "pass" if total.epsilon <= cap * (1 + 1e-9) else "fail"
    return status, what, f"{spent} of {cap:g} at delta {delta_of(evidence):.3g}"


def _bare(evidence: Evidence) -> Check | None:
    if not evidence.bare and not evidence.elsewhere:
        return None
    parts = []
    if evidence.bare:
        parts.append(f"{len(evidence.bare)} run(s) without privacy, such as {evidence.bare[-1]}")
    if evidence.elsewhere:
        parts.append(f"ledgers of other units: {', '.join(evidence.elsewhere)}")
    why = f"{'; '.join(parts)}: what those released comes on top"
    return "warn", "Nothing else was released about these data", why
