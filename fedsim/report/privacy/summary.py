"""The first ten lines: for a reader who is no expert."""

from collections.abc import Mapping
from typing import Any

from fedsim.report.privacy.words import SEEDED, bound, percent

__all__ = ["summary", "title"]

_METRICS = "Training and evaluation metrics"


def title(content: Mapping[str, Any]) -> str:
    """Return the first line; of a run whose noise can be repeated it begins by saying so."""
    text = f"Privacy report of run {content['run']['id']}"
    return f"{SEEDED}. {text}" if content["notice"] else text


def summary(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what has to be known first: eight lines of (label, text)."""
    return [
        ("Protected", _protected(content)),
        ("Cannot be told apart", _neighbours(content)),
        ("Epsilon and delta", _epsilon(content)),
        ("What that means", _meaning(content)),
        ("Not protected", _open(content)),
        ("Taken as public", _items(content, "public")),
        ("Not accounted", _items(content, "not accounted")),
        ("Trusted", f"{content['setting']['trusted']} {content['setting']['simulation']}"),
    ]


def _protected(content: Mapping[str, Any]) -> str:
    promise, clients = content["guarantee"], content["run"]["clients"]
    many = f"{clients:,}" if isinstance(clients, int) else clients
    return (
        f"{promise['unit_means']} (unit: {promise['unit']}; clients: {many}), from whoever sees "
        f"{content['setting']['released']}."
    )


def _neighbours(content: Mapping[str, Any]) -> str:
    promise = content["guarantee"]
    return f"{promise['adjacency_means']} (adjacency: {promise['adjacency']})."


def _epsilon(content: Mapping[str, Any]) -> str:
    promise, cap = content["guarantee"], content["budget"]["cap"]
    own, total = promise["run"]["epsilon"], promise["data_set"]["epsilon"]
    text = f"epsilon {bound(own)} at delta {promise['delta']:.3g} for this run"
    if promise["data_set"]["runs"] > 1:
        text += f"; epsilon {bound(total)} for all {promise['data_set']['runs']} runs on these data"
    text += f"; the cap is {cap['epsilon']:g}" if cap else "; there is no cap"
    if (content["distributed"] or {}).get("short_of_noise"):
        return f"None: {promise['run']['note']}."
    if not promise["holds"]:
        return f"None. It would be {text}, had all noise been secret and in the ledger."
    if not promise["data_set"]["holds"]:
        text += "; not all of those runs' noise was secret, so only the first number holds"
    return f"{text}."


def _meaning(content: Mapping[str, Any]) -> str:
    promise = content["guarantee"]
    if not promise["holds"]:
        return "Nothing is promised: an attacker may recognise everybody."
    found = promise["data_set"]["true_positive_rate"][0]
    wrong, right = percent(found["false_positive_rate"]), percent(found["at_most"])
    whose = "all these runs" if promise["data_set"]["runs"] > 1 else "this run"
    who = "an example" if promise["unit"] == "example" else "a client"
    return (
        f"An attacker who knows everything but {who}'s data and sees all models of {whose}, and "
        f"who wrongly accuses {wrong} of those not in the data (false positives), recognises at "
        f"most {right} of those in them (true positives). By guessing: {wrong}. Without "
        "protection: 100 %."
    )


def _open(content: Mapping[str, Any]) -> str:
    items = [i for i in content["unprotected"] if i["status"] == "unprotected"]
    if not items:
        return "No record of clients' data is stored with the run."
    first = [i["detail"].split(":")[0] for i in items if i["what"] == _METRICS]
    named = f"training and evaluation metrics stored without noise ({first[0]}); " if first else ""
    rest = ", ".join(i["what"].lower() for i in items if i["what"] != _METRICS)
    return f"{named}{rest}. Epsilon does not cover them."


def _items(content: Mapping[str, Any], status: str) -> str:
    found = [i["what"].lower() for i in content["unprotected"] if i["status"] == status]
    return f"{', '.join(found)}." if found else "nothing."
