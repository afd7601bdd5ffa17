"""Who is trusted, what is released and how: definition, mechanism, sampling."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.privacy.events import DISCRETE, Release
from fedsim.report.privacy import distributed
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.words import NOT_MEASURED, NOT_RECORDED, NOT_SHOWN, SEEDED
from fedsim.secagg.ckks import TRUST

__all__ = ["empirical", "mechanism", "sampling", "setting", "tuning", "utility"]

_TRUST = {
    "user": "The server: it sees each client's clipped update before noise is added to their sum.",
    "example": "Each client's own machine; its updates are noised before the server sees them.",
    "local": "Nobody but the client itself: what leaves it is noised already.",
}
_TRUST_MASKED = (
    "The server: it adds the noise, and sees the sum of a cohort's clipped updates before. "
    "Clients: to clip; under masks nobody else can check that."
)
_RELEASED = "the model after every round, hence also the final one"
_FEW = 5.0  # expected clients in and out of a cohort below which no test of its size is made
_RANDOM = ("poisson", "truncated")


def setting(evidence: Evidence) -> dict[str, Any]:
    """Return who is trusted and what is released."""
    unit, name = evidence.privacy["unit"], distributed.secure_sum(evidence)
    by_clients = distributed.is_distributed(evidence)
    model = {"user": "central", "example": "local to each client", "local": "local"}[unit]
    return {
        "model": "distributed" if by_clients else model,
        "trusted": distributed.trusted(evidence) if by_clients else _trusted(unit, name),
        "secure_aggregation": _secure_aggregation(name),
        "simulation": "One machine simulated server and clients: whoever has it has all the data.",
        "released": _RELEASED,
        "domain": f"updates of {evidence.run.facts.get('dimension', NOT_RECORDED)} parameters, "
        f"learned from data set {_dataset(evidence)}",
    }


def _secure_aggregation(name: str) -> str:
    """Say which secure sum there is, and that it is no privacy of its own."""
    if name == "plain":
        return "none"
    trust = f" ({TRUST})" if name == "ckks" else ""
    return f"{name}{trust}; {distributed.ALONE}"


def _trusted(unit: str, secure_sum: str) -> str:
    """Say who is trusted where the server, or each client by itself, adds the noise."""
    if unit == "user" and secure_sum == "ckks":
        return f"{_TRUST_MASKED} The client that opens it sees it too. All: {TRUST}."
    is_masked = secure_sum in ("secagg", "secagg+")
    return _TRUST_MASKED if unit == "user" and is_masked else _TRUST[unit]


def _dataset(evidence: Evidence) -> str:
    if evidence.receipts:
        return evidence.receipts[0].entry.dataset
    return str((evidence.run.config.get("data") or {}).get("name") or NOT_RECORDED)


def mechanism(evidence: Evidence) -> dict[str, Any]:
    """Return what was done to updates, as configured: none of it is measured."""
    privacy = evidence.privacy
    seeded = privacy.get("noise") == "seeded"
    unit, multiplier = privacy["unit"], privacy.get("noise_multiplier")
    norm, cohort = privacy.get("clipping_norm"), _expected(evidence)
    name, clipping = privacy.get("mechanism", "gaussian"), privacy.get("clipping", "fixed")
    is_plain = unit != "local" and name in ("gaussian", *DISCRETE) and clipping == "fixed"
    std = multiplier * norm if is_plain and multiplier and norm else None
    return {
        "name": name,
        "clipping": clipping,
        "clipping_norm": norm if norm is not None else NOT_RECORDED,
        "clipping_norm_by_round": _trace(evidence.run.rounds),
        "noise_multiplier": multiplier if multiplier is not None else NOT_RECORDED,
        "noise_std_of_sum": std if std is not None else NOT_RECORDED,
        "noise_std_of_mean": std / cohort if unit == "user" and std and cohort else NOT_RECORDED,
        "denominator": cohort if unit == "user" and cohort else NOT_RECORDED,
        "weight_cap": privacy.get("weight_cap") or "none: clients count alike",
        "participations": _participations(evidence),
        "arithmetic": _arithmetic(evidence),
        "random_numbers": f"{SEEDED}: they follow from the experiment's seed"
        if seeded
        else "ChaCha20, its key from the operating system and kept nowhere",
    }


def _arithmetic(evidence: Evidence) -> str:
    """Return what kind of numbers sums and noise are."""
    if evidence.privacy["unit"] != "user":
        return NOT_RECORDED
    if distributed.is_distributed(evidence):
        bits = (evidence.run.facts.get("privacy") or {}).get("bits", NOT_RECORDED)
        return f"integers modulo 2^{bits}, noise included, from the client to the opened sum"
    bits = evidence.run.facts.get("fraction_bits")
    if bits is None:
        return NOT_RECORDED
    return f"64-bit fixed point, {bits} fraction bits: sum and noise are integers"


def _expected(evidence: Evidence) -> int | None:
    rounds, population = evidence.run.config.get("rounds") or {}, evidence.population
    cohort = rounds.get("cohort") or population
    return min(cohort, population) if cohort and population else cohort


def _trace(rounds: Sequence[Mapping[str, Any]]) -> Any:
    """Return the clipping norm of rounds where they say it."""
    names = ("privacy/clipping_norm", "clipping_norm")
    found = [
        [r["round"], r["metrics"][name]] for r in rounds for name in names if name in r["metrics"]
    ]
    return found or NOT_RECORDED


def _participations(evidence: Evidence) -> dict[str, Any]:
    """Return in how many rounds one client's data can be, at most, and how far apart."""
    privacy, population, cohort = evidence.privacy, evidence.population, _expected(evidence)
    count = (evidence.run.config.get("rounds") or {}).get("count")
    if not population or not cohort or not count:
        return {"most": NOT_RECORDED, "least_separation": NOT_RECORDED}
    is_cyclic = privacy["unit"] == "user" and privacy.get("sampling") == "cyclic"
    apart = max(1, population // cohort) if is_cyclic else 1
    return {"most": -(-count // apart), "least_separation": apart}


def sampling(evidence: Evidence, releases: Sequence[Release]) -> dict[str, Any]:
    """Return who was assumed to take part, who was drawn, and whether the two fit.

    A sampler that draws each client by itself gives cohorts of binomial size. Two tests of that,
    each two-sided: of the mean (exact), and of the spread (chi-square), which finds cohorts that
    are always of one size.
    """
    kinds = sorted({release.sampling.kind for release in releases})
    cohorts = [int(row["cohort"]) for row in evidence.run.rounds]
    privacy = evidence.privacy
    found: dict[str, Any] = {
        "accounted": [dict(s) for s in sorted({_plain(release) for release in releases})],
        "configured": privacy.get("sampling", NOT_RECORDED),
        "drawn_in_secret": privacy.get("noise", "secret") == "secret",
        "population": evidence.population or NOT_RECORDED,
        "expected_cohort": _expected(evidence) or NOT_RECORDED,
        "cohorts": _sizes(cohorts) if cohorts else NOT_RECORDED,
        "answered": sum(int(row["results"]) for row in evidence.run.rounds),
        "lost": sum(int(row["lost"]) for row in evidence.run.rounds),
        "p_mean": NOT_MEASURED,
        "p_spread": NOT_MEASURED,
    }
    is_user = privacy["unit"] == "user"
    if privacy.get("client_epsilon") is not None:  # who could still pay depends on updates
        return found | dict.fromkeys(("cohorts", "answered", "lost"), NOT_SHOWN)
    if is_user and len(kinds) == 1 and kinds[0] in _RANDOM and evidence.population:
        found |= _tested(cohorts, evidence.population, releases[0].sampling.rate)
    return found


def _plain(release: Release) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(release.to_dict()["sampling"].items()))


def _sizes(cohorts: Sequence[int]) -> dict[str, Any]:
    return {
        "least": min(cohorts),
        "mean": sum(cohorts) / len(cohorts),
        "most": max(cohorts),
        "rounds": len(cohorts),
    }


def _tested(cohorts: Sequence[int], population: int, rate: float) -> dict[str, Any]:
    from scipy import stats

    expected, variance = population * rate, population * rate * (1 - rate)
    if not cohorts or variance < _FEW:
        return {}
    tries = population * len(cohorts)
    found = {"p_mean": float(stats.binomtest(sum(cohorts), tries, rate).pvalue)}
    if len(cohorts) >= _FEW:
        spread = sum((cohort - expected) ** 2 for cohort in cohorts) / variance
        below = float(stats.chi2.cdf(spread, len(cohorts)))
        found["p_spread"] = 2 * min(below, 1 - below)
    return found


def tuning(evidence: Evidence) -> dict[str, Any]:
    """Return what looking for good settings cost: as far as it is in the ledger."""
    others = [name for name in evidence.noise if name != evidence.run.id]
    return {
        "status": "not accounted",
        "in_ledger": others,
        "without_privacy": [name for name in evidence.bare if name != evidence.run.id],
        "elsewhere": "Looking at the data, and runs in other stores, are known to nobody here.",
    }


def utility(evidence: Evidence) -> dict[str, Any]:
    """Return what the model came to."""
    metrics = evidence.run.summary.get("metrics") or {}
    return {
        "metrics": {name: value for name, value in sorted(metrics.items()) if "/" in name},
        "confidence": NOT_MEASURED,
        "gap_to_no_privacy": NOT_MEASURED,
        "signal_to_noise": NOT_MEASURED,
    }


def empirical() -> dict[str, str]:
    """Return attacks that were tried: none, as far as a ledger tells."""
    return dict.fromkeys(("audit", "membership_inference", "inversion"), NOT_MEASURED)
