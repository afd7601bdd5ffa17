"""Noise that clients added: what it costs beside central noise, who counted, who is trusted."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedsim.privacy import accounting
from fedsim.privacy.accounting import Renyi
from fedsim.privacy.distributed import Distributed
from fedsim.privacy.events import DISCRETE, Release
from fedsim.privacy.ledger import Entry
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.numbers import adjacency_of, delta_of
from fedsim.report.privacy.words import NOT_RECORDED, plain
from fedsim.secagg.ckks import TRUST

__all__ = [
    "ALONE",
    "as_released",
    "distributed",
    "is_distributed",
    "rounds_short_of_noise",
    "secure_sum",
    "trusted",
]

#: Said wherever secure aggregation is named.
ALONE = "secure aggregation alone gives no epsilon: it hides single updates, not what a sum tells"

_SUMS = {
    "plain": "none",
    "ideal": "ideal: simulated, without masks",
    "secagg": "masks between all clients of a cohort (Bonawitz et al. 2017)",
    "secagg+": "masks between neighbours in a sparse graph (Bell et al. 2020)",
    "ckks": f"CKKS under one key of all clients: {TRUST}",
}


def is_distributed(evidence: Evidence) -> bool:
    """Say whether clients add the noise themselves."""
    privacy = evidence.privacy
    return privacy.get("unit") == "user" and privacy.get("mechanism") in DISCRETE


def secure_sum(evidence: Evidence) -> str:
    """Return which secure sum ran, as its configuration has it."""
    return str((evidence.run.config.get("secure_sum") or {}).get("name") or "plain")


def trusted(evidence: Evidence) -> str:
    """Return who must be trusted for what."""
    name, own = secure_sum(evidence), _parts(evidence)
    colluders = own.colluders if own else NOT_RECORDED
    if name == "ideal":
        server = "The server: sums are simulated without masks, so it could see every update."
    elif name == "ckks":
        server = f"All: {TRUST}. Clients: to clip and to add their noise."
    else:
        server = (
            f"Clients: to clip, to add their noise, and that at most {colluders} of a cohort tell "
            "the server theirs."
        )
    chance = evidence.privacy.get("sampling") in ("truncated", "fixed")
    if chance:
        server += (
            " The server: to keep to itself who took part, which amplification by sampling rests on"
            f"{', and to complete the noise' if own and own.is_completed else ''}; what holds "
            "against the server itself is stated apart."
        )
    return server


def rounds_short_of_noise(evidence: Evidence) -> list[int]:
    """Return the rounds whose sum had fewer survivors than noise was counted on: none, we hope."""
    own = _parts(evidence) if is_distributed(evidence) else None
    if own is None:
        return []
    return [
        row["round"]
        for row in evidence.run.rounds
        if row["results"] < own.least and not (own.is_completed and row["results"] == 0)
    ]


def as_released(evidence: Evidence) -> Evidence:
    """Return the evidence with the rounds that were short of noise as what they are: without any.

    So that no number of the report promises what those rounds broke.
    """
    short = set(rounds_short_of_noise(evidence))
    if not short:
        return evidence
    return replace(
        evidence,
        receipts=tuple(
            replace(receipt, entry=_without_noise(receipt.entry))
            if receipt.entry.run == evidence.run.id and receipt.entry.round in short
            else receipt
            for receipt in evidence.receipts
        ),
    )


def _without_noise(entry: Entry) -> Entry:
    spends = (replace(s, release=replace(s.release, noise_multiplier=0.0)) for s in entry.spends)
    return replace(entry, spends=tuple(spends))


def distributed(evidence: Evidence, releases: Sequence[Release]) -> dict[str, Any] | None:
    """Return all about clients' noise; None where the server adds it, or nothing is recorded.

    `releases`: what the ledger has of the client that spent most.
    """
    own = _parts(evidence) if is_distributed(evidence) else None
    if own is None:
        return None
    survivors = [int(row["results"]) for row in evidence.run.rounds]
    return {
        "secure_sum": _SUMS[secure_sum(evidence)],
        "alone": ALONE,
        "bits": own.bits,
        "steps_per_clipping_norm": own.scale,
        "rotated_dimension": own.width,
        "noise_std_of_one_client": own.clipping_norm * math.sqrt(own.local_variance) / own.scale,
        "noises_counted_on": own.shares,
        "least_survivors": own.least,
        "most_clients": own.most,
        "assumed_colluders": own.colluders,
        "completed_by_server": own.is_completed,
        "survivors": {"least": min(survivors), "most": max(survivors)} if survivors else None,
        "short_of_noise": rounds_short_of_noise(evidence),
        "inflation": _inflation(evidence, releases),
        "counted": _counted(evidence, own, releases),
        "against_server": _against_server(evidence, own),
    }


def _parts(evidence: Evidence) -> Distributed | None:
    """Return the mechanism as the run's record has it."""
    found = evidence.run.facts.get("privacy") or {}
    names = ("bits", "most_clients", "least_survivors", "assumed_colluders", "is_completed")
    privacy = evidence.privacy
    if not all(name in found for name in names) or "dimension" not in evidence.run.facts:
        return None
    return Distributed(
        mechanism=privacy["mechanism"],
        noise_multiplier=float(privacy["noise_multiplier"]),
        clipping_norm=float(privacy["clipping_norm"]),
        dimension=int(evidence.run.facts["dimension"]),
        bits=int(found["bits"]),
        most=int(found["most_clients"]),
        least=int(found["least_survivors"]),
        colluders=int(found["assumed_colluders"]),
        is_completed=bool(found["is_completed"]),
    )


def _inflation(evidence: Evidence, releases: Sequence[Release]) -> dict[str, Any] | None:
    """Compare with a server that adds continuous noise of the same standard deviation.

    Like with like first, both by Rényi divergences; then what the server's noise would be known to
    cost by loss distributions, which discrete noise has none of.
    """
    own = [release for release in releases if release.lattice is not None]
    if not own or len(own) < len(releases):
        return None
    adjacency, delta = adjacency_of(evidence), delta_of(evidence)
    central = [replace(r, mechanism="gaussian", lattice=None) for r in own]
    found, gaussian = Renyi(adjacency), Renyi(adjacency)
    for discrete, continuous in zip(own, central, strict=True):
        found, gaussian = found.compose(discrete), gaussian.compose(continuous)
    epsilon, least = found.epsilon(delta), gaussian.epsilon(delta)
    return {
        "epsilon": plain(epsilon),
        "gaussian_by_renyi": plain(least),
        "gaussian": plain(accounting.epsilon(central, delta, adjacency)),
        "percent": 100 * (epsilon / least - 1) if 0 < least < math.inf else None,
    }


def _counted(evidence: Evidence, own: Distributed, releases: Sequence[Release]) -> Any:
    """Return epsilon with the noise of those who really survived, not of the fewest who might.

    Only for a run whose every round is one release of everybody; others keep the ledger's.
    """
    rounds = evidence.run.rounds
    if not rounds or len(releases) != 1 or releases[0].count != len(rounds):
        return None
    if rounds_short_of_noise(evidence):
        return None
    found = Renyi(adjacency_of(evidence))
    for row in rounds:
        there = (own.most if own.is_completed else int(row["results"])) - own.colluders
        multiplier = own.noise_multiplier * math.sqrt(there / own.shares)
        lattice = replace(own.release(releases[0].sampling).lattice, terms=there)  # type: ignore[type-var]
        found = found.compose(
            replace(releases[0], noise_multiplier=multiplier, lattice=lattice, count=1)
        )
    return {"epsilon": plain(found.epsilon(delta_of(evidence)))}


def _against_server(evidence: Evidence, own: Distributed) -> dict[str, Any] | None:
    """Return epsilon against a server that keeps to the protocol: it knows who took part.

    Of one round, the worst, and for a client that was in all of them; None where a round has no
    epsilon, and where masks are only simulated.
    """
    survivors = [int(row["results"]) for row in evidence.run.rounds if row["results"]]
    if secure_sum(evidence) == "ideal" or not survivors or rounds_short_of_noise(evidence):
        return None
    if min(survivors) <= own.colluders:
        return None
    delta, adjacency = delta_of(evidence), adjacency_of(evidence)
    every = [own.against_server(count) for count in survivors]
    worst = own.against_server(min(survivors))
    return {
        "one_round": plain(accounting.epsilon([worst], delta, adjacency)),
        "every_round": plain(accounting.epsilon(every, delta, adjacency)),
    }
