"""The hazards of NIST SP 800-226, each with a status.

Near, Darais, Lefkovitz and Howarth, "Guidelines for Evaluating Differential Privacy Guarantees",
NIST SP 800-226, March 2025: a guarantee stands on a pyramid, from epsilon and the unit of privacy
at the top down to how the data were collected, and is worth what the layers below it are. In our
words, from its sections 2 (the guarantee), 3 (algorithms) and 4 (deployment).
"""

from collections.abc import Callable, Mapping
from typing import Any

from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.unprotected import metrics_of_clients
from fedsim.report.privacy.words import SEEDED, bound

__all__ = ["hazards"]

_WEAK = 10.0  # "weak or no guarantee" above: Ponomareva et al., JAIR 77, 2023, tiers of epsilon

#: layer, hazard, status, reason; status: "addressed", "partly", "open" or "outside" fedsim's reach
Hazard = tuple[str, str, str, str]


def hazards(evidence: Evidence, content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the list, from the top of the pyramid down; `content`: the report so far."""
    every: tuple[Callable[[Evidence, Mapping[str, Any]], Hazard], ...] = (
        _parameters,
        _unit,
        _adjacency,
        _composition,
        _sensitivity,
        _utility,
        _bias,
        _learning,
        _queries,
        _trust,
        _randomness,
        _floating_point,
        _side_channels,
        _access,
        _collection,
    )
    keys = ("layer", "hazard", "status", "reason")
    return [dict(zip(keys, make(evidence, content), strict=True)) for make in every]


def _parameters(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    promise, delta = content["guarantee"]["data_set"], content["guarantee"]["delta"]
    epsilon, population = promise["epsilon"], evidence.population
    stated = f"epsilon {bound(epsilon)} at delta {delta:.3g}, for all runs in the ledger"
    found = ("guarantee", "Epsilon or delta promise little")
    if isinstance(epsilon, str) or epsilon > _WEAK:
        return *found, "open", f"{stated}: above {_WEAK:g} there is hardly a formal promise"
    if population and delta >= 1 / population:
        return *found, "open", f"{stated}: delta is not below 1 / clients"
    return *found, "addressed" if epsilon <= 1 else "partly", stated


def _unit(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found, unit = ("guarantee", "The unit protects less than a person"), evidence.privacy["unit"]
    if unit == "example":
        return *found, "open", "a person with several examples is protected less: see group privacy"
    return *found, "partly", "a client is protected whole; a person who is several clients is not"


def _adjacency(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found, stated = ("guarantee", "Neighbours are left unclear"), content["guarantee"]
    return *found, "addressed", f"{stated['adjacency']}: {stated['adjacency_means']}"


def _composition(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("guarantee", "Repeated releases add up unnoticed")
    if evidence.bare or evidence.elsewhere:
        return *found, "open", "runs without privacy, or in other units, used the same data"
    cap = "the cap is a filter" if evidence.privacy.get("epsilon") else "there is no cap"
    why = f"all runs of this store share a ledger, written before each release; {cap}"
    return *found, "addressed" if evidence.privacy.get("epsilon") else "partly", why


def _sensitivity(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    failed = [check["check"] for check in content["checks"] if check["status"] == "fail"]
    found = ("algorithms", "The mechanism is not the one that is accounted")
    if failed:
        return *found, "open", f"checks that failed: {'; '.join(failed)}"
    why = "updates are clipped before they are summed; noise follows from the clipping norm, and "
    return *found, "addressed", f"{why}sampling and accounting read one description"


def _utility(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found, has = ("algorithms", "Results are too inaccurate to use"), content["utility"]["metrics"]
    if not has:
        return *found, "open", "nothing was measured"
    return (
        *found,
        "partly",
        "final metrics are in the report; the gap to no privacy is not measured",
    )


def _bias(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("algorithms", "Noise and clipping hurt small groups most")
    worst = [name for name in metrics_of_clients(evidence) if name.endswith("/worst_decile")]
    if not worst:
        return *found, "open", "no metric over clients was measured"
    return *found, "partly", "the worst tenth of clients was measured; groups of people were not"


def _learning(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("algorithms", "Training discloses more than the model")
    why = "choosing settings is not accounted"
    if metrics_of_clients(evidence):
        why += "; training and evaluation metrics are stored without noise"
    return *found, "open", why


def _queries(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    why = "nobody queries the data: what is released is fixed by the experiment"
    return "deployment", "Interactive queries exceed the budget", "addressed", why


def _trust(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("deployment", "Somebody is trusted who should not be")
    is_shared = evidence.privacy["unit"] != "user" or content["distributed"] is not None
    setting = content["setting"]
    why = f"trusted: {setting['trusted']} Secure aggregation: {setting['secure_aggregation']}"
    return *found, "partly" if is_shared else "open", why


def _randomness(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("implementation", "Noise can be predicted")
    if evidence.privacy.get("noise") == "seeded":
        return *found, "open", f"{SEEDED}: who knows the seed can subtract the noise"
    return *found, "addressed", content["mechanism"]["random_numbers"]


def _floating_point(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    found = ("implementation", "Floating-point numbers give the data away")
    if evidence.privacy["unit"] == "user":
        return *found, "addressed", "an integer sum plus integer noise: no last bits of a float"
    return *found, "partly", "clients add noise to floating-point numbers"


def _side_channels(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    why = "drawing noise takes the same time whatever is drawn; how long clients train does not"
    return "implementation", "Timing and other side channels", "partly", why


def _access(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    why = (
        "who may read the data and the run store is up to whoever keeps them; nothing is encrypted"
    )
    return "environment", "Access to raw data and records", "outside", why


def _collection(evidence: Evidence, content: Mapping[str, Any]) -> Hazard:
    why = "how the data were collected, with what consent, and how long they are kept"
    return "environment", "Collecting more than is needed", "outside", why
