"""The secure sum: which one ran, what it kept from the server, and what not."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.section import Section, Table, number
from fedsim.secagg.ckks import TRUST

__all__ = ["section"]

_TITLES = {
    "ideal": "ideal: no masks, simulated. It comes to the bits of secagg and hides nothing",
    "secagg": "secagg: masks between all clients of a cohort (Bonawitz et al., CCS 2017)",
    "secagg+": "secagg+: masks between neighbours in a sparse graph (Bell et al., CCS 2020)",
    "ckks": f"ckks: vectors encrypted under one key of all clients (TenSEAL). {TRUST}",
}
_ALONE = (
    "Secure aggregation alone gives no epsilon: the sum itself tells of who is in it, and sums of "
    "many rounds tell more. Differential privacy bounds that ([privacy])."
)


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section | None:
    """Return how updates were summed; nothing where the server saw them."""
    facts = run.facts.get("secure_sum") or {}
    if not facts:
        return None
    protects, does_not = _scope(facts)
    results = [entry["results"] for entry in run.rounds]
    survivors = {"least": min(results, default=None), "most": max(results, default=None)}
    step = 2.0 ** -facts["fraction_bits"]
    data = {
        **facts,
        "step": step,
        "survivors": survivors,
        "protects": protects,
        "does_not": does_not,
    }
    return Section(
        "secure_sum",
        "Secure sum",
        data,
        text=f"{_TITLES[facts['name']]}. {_ALONE}",
        tables=[
            Table("What it is", ["", ""], _rows(facts, step, survivors)),
            Table(
                "What that means",
                ["", "what"],
                [
                    *(["kept from the server", text] for text in protects),
                    *(["not protected", text] for text in does_not),
                ],
            ),
        ],
    )


def _rows(
    facts: Mapping[str, Any], step: float, survivors: Mapping[str, int | None]
) -> list[list[str]]:
    graph = "none" if facts["graph"] == "none" else f"{facts['graph']}, {facts['neighbours']} each"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    least, most = number(survivors["least"]), number(survivors["most"])
    return [
        ["graph, neighbours", graph],
        ["needed to open a secret", f"{facts['threshold']} of a neighbourhood"],
        ["needed in a sum", f"{facts['least_survivors']} of a cohort of {facts['cohort']}"],
        ["clients in a sum, least / most", f"{least} / {most}"],
        ["numbers", f"{facts['length']:,} modulo 2^{facts['bits']}"],
        ["step of a weighted coordinate", number(step)],
        ["bound of a coordinate", number(facts["max_abs"])],
        ["metrics summed", ", ".join(facts["metrics"]) or "none"],
        ["identities", facts["identities"]],
        ["primitives", f"{facts['profile']} profile; {versions}"],
    ]


def _scope(facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what is kept from the server, and what is not."""
    does_not = [
        "who took part and who was lost, in which round and phase",
        "the sums themselves: updates, weights and metrics of the cohort added up",
        "the model from clients that send wrong updates: each is checked by itself alone",
    ]
    if facts["name"] == "ideal":
        return [], ["every update: whoever runs the simulation could see it", *does_not]
    if facts["name"] == "ckks":
        does_not += [
            f"anything from a server that one client helps, or that lies: {TRUST}, and cannot see "
            "whether what it opens is a sum",
            "the sum of a round, before any noise of the server, from the client that opens it",
        ]
    does_not.append(
        "anything from whoever runs this simulation: server, clients and the secret that all "
        f"{'encrypt under is' if facts['name'] == 'ckks' else 'identities follow from are'} on its "
        "machines"
    )
    return ["updates, weights and training metrics of single clients"], does_not
