"""Checks on top: what a reader should know before believing any number below."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from fedsim.report.section import Section, metric_of, number
from fedsim.secagg.ckks import TRUST

__all__ = ["section"]

_MANY_LOST = 0.05
_WIDE_SPREAD = 0.15

Check = tuple[str, str, str]  # (pass | warn | fail, what, why)


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return all checks; each is one function below."""
    every: tuple[Callable[[Any], Check | None], ...] = (
        _finished,
        _lost,
        _finite,
        _improved,
        _spread,
        _exact,
        _private,
        _attacked,
        _incidents,
        _code,
    )
    found = [check for check in (make(run) for make in every) if check is not None]
    data = [{"status": status, "check": what, "reason": why} for status, what, why in found]
    return Section("checks", "Checks", data)


def _finished(run: Any) -> Check:
    asked, done = run.config["rounds"]["count"], len(run.rounds)
    what = "All rounds ran"
    if run.status == "finished" and done == asked:
        return "pass", what, f"{done} of {asked}"
    status = "warn" if run.status in ("interrupted", "running") else "fail"
    return status, what, f"the run is {run.status} after {done} of {asked} rounds"


def _lost(run: Any) -> Check:
    what = "Clients answered"
    asked = sum(entry["cohort"] for entry in run.rounds)
    lost = sum(entry["lost"] for entry in run.rounds)
    if not lost:
        return "pass", what, f"none of {asked:,} answers was lost"
    share = lost / max(asked, 1)
    status = "warn" if share <= _MANY_LOST else "fail"
    return status, what, f"{lost:,} lost ({share:.1%}); reasons below, tracebacks in run.log"


def _finite(run: Any) -> Check:
    what = "All metrics are finite"
    bad = sorted(
        {
            name
            for entry in run.rounds
            for name, value in entry["metrics"].items()
            if value is None or not math.isfinite(value)
        }
    )
    if bad:
        return "fail", what, f"not finite: {', '.join(bad)}"
    return "pass", what, f"no NaN or infinity in any metric of {len(run.rounds)} rounds"


def _improved(run: Any) -> Check | None:
    name, is_up = metric_of(run)
    for key in (f"test/{name}", f"federated/{name}", "train/loss"):
        values = [e["metrics"][key] for e in run.rounds if e["metrics"].get(key) is not None]
        if len(values) > 1:
            is_up = is_up and key != "train/loss"
            better = values[-1] > values[0] if is_up else values[-1] < values[0]
            why = f"{key}: {number(values[0])} after the first, {number(values[-1])} after the last"
            return "pass" if better else "fail", "The model improved", why
    return None


def _spread(run: Any) -> Check | None:
    name, is_up = metric_of(run)
    key = f"federated/{name}"
    for entry in reversed(run.rounds):
        worst, mean = entry["metrics"].get(f"{key}/worst_decile"), entry["metrics"].get(key)
        if worst is None or mean is None:
            continue
        gap = (mean - worst) if is_up else (worst - mean)
        wide = gap > _WIDE_SPREAD * max(abs(mean), 1e-12)
        why = f"worst tenth of clients {number(worst)}, all {number(mean)} ({key})"
        return "warn" if wide else "pass", "Clients fare alike", why
    return None


def _exact(run: Any) -> Check:
    facts = run.facts
    secure = facts.get("secure_sum") or {}
    what = f"modulo 2^{secure['bits']}" if secure else "64-bit fixed point"
    why = (
        f"{what} with {facts['fraction_bits']} fraction bits: no sum can overflow, and "
        "neither order nor the number of workers can change a bit"
    )
    tier = (facts.get("execution") or {}).get("tier")
    if tier in ("vectorized", "low-rank") and not secure:
        why += "; within a block of clients trained at once, sums are floating point"
    return "pass", "Aggregation is exact", why


_SERVER_SAW = {
    "plain": "the server saw every update and metric in the clear",
    "ideal": "its secure sum is simulated without masks, which hides nothing",
    "ckks": f"the server saw of updates and metrics their sums alone ({TRUST})",
    "secagg": "under its secure sum the server saw of updates and metrics their sums alone",
}


def _private(run: Any) -> Check:
    spent = (run.summary or {}).get("privacy")
    name = (run.facts.get("secure_sum") or {}).get("name", "plain")
    what = (
        f"unit {spent['unit']}, epsilon {spent['epsilon']:.4g} at delta {spent['delta']:.3g}: what "
        "that covers is in the privacy report (fedsim privacy report)"
        if spent
        else "no differential privacy"
    )
    if name == "plain":
        what += "; no secure aggregation" if spent else ", no secure aggregation"
    elif not spent:
        what += ": secure aggregation alone gives no epsilon"
    why = f"this is a simulation on one machine; {_SERVER_SAW[name.removesuffix('+')]}: {what}"
    if notice := run.facts.get("notice"):
        why = f"{notice} {why}"
    return "warn", "Privacy protection", why


def _attacked(run: Any) -> Check | None:
    facts = run.facts.get("attack") or {}
    if not facts:
        return None
    found = [entry["metrics"].get("attack/clients") or 0 for entry in run.rounds]
    most, borne = int(max(found, default=0)), facts["f"]
    why = (
        f"simulated: {len(facts['clients'])} of {facts['population']} made the attack "
        f"{facts['name']}, at most {most} in a round; {facts['strategy']} "
        + ("promises nothing against it" if borne is None else f"was set to bear f = {borne}")
    )
    is_borne = borne is not None and most <= borne
    return "pass" if is_borne else "warn", "Malicious clients are borne", why


def _incidents(run: Any) -> Check | None:
    found = (run.summary or {}).get("incidents") or []
    if not found:
        return None
    more = f" and {len(found) - 1} more, in run.log" if len(found) > 1 else ""
    return "warn", "Workers ran undisturbed", f"{found[0]}{more}"


def _code(run: Any) -> Check | None:
    git = run.environment.get("git") or {}
    if not git:
        return None
    if git["is_dirty"]:
        why = f"commit {git['commit'][:10]} plus uncommitted changes ({git['diff_sha256']})"
        return "warn", "The code is committed", why
    return "pass", "The code is committed", f"commit {git['commit'][:10]}"
