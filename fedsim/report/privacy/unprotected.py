"""What the guarantee does not cover: said before anybody asks."""

from fedsim.report.privacy import distributed
from fedsim.report.privacy.evidence import Evidence
from fedsim.report.privacy.words import NOT_ACCOUNTED

__all__ = ["metrics_of_clients", "unprotected"]

_OF_CLIENTS = ("train/", "federated/")  # computed on clients' data; "test/" is on the server's own

#: what, status (unprotected, public, not accounted), detail
Item = tuple[str, str, str]


def unprotected(evidence: Evidence) -> list[dict[str, str]]:
    """Return what is released or stored without noise, taken as public, or not accounted."""
    found = [
        *_stored(evidence),
        *_public(evidence),
        _tuning(evidence),
        _initial(evidence),
        (
            "Preparing the data",
            NOT_ACCOUNTED,
            "cleaning, scaling and choosing features may have looked at everybody's data",
        ),
    ]
    return [{"what": what, "status": status, "detail": detail} for what, status, detail in found]


def metrics_of_clients(evidence: Evidence) -> list[str]:
    """Return the names of metrics stored with the run that were computed on clients' data."""
    names = {name for row in evidence.run.rounds for name in row["metrics"]}
    names |= set(evidence.run.summary.get("metrics") or {})
    return sorted(name for name in names if name.startswith(_OF_CLIENTS))


def _stored(evidence: Evidence) -> list[Item]:
    """Return what is in the run store: the models in it are protected, the records are not."""
    found: list[Item] = []
    names = metrics_of_clients(evidence)
    if names:
        detail = (
            f"{', '.join(names)}: computed on clients' data without noise and stored for every "
            "round; epsilon covers the models, not these. Do not publish them, nor report.html"
        )
        found.append(("Training and evaluation metrics", "unprotected", detail))
    if evidence.run.rounds:
        each = ", each client's loss and number of examples"
        if distributed.secure_sum(evidence) != "plain":
            each = " and who was lost"  # their numbers are in sums alone
        detail = (
            f"who took part in which round{each}, in the run store. Sampling amplifies privacy "
            "only while nobody sees who was drawn"
        )
        found.append(("Rows of single clients", "unprotected", detail))
        detail = "clients asked, answering and lost in each round; times and bytes"
        found.append(("Counts of each round", "unprotected", detail))
    if evidence.spent_by_clients is not None:
        detail = (
            "what each client spent, by the norms of its updates, in a file of the server's; who "
            "had budget left. The quarters in this report are of it, without noise"
        )
        found.append(("Clients' own accounts", "unprotected", detail))
    if "table" in evidence.run.partition or "sizes" in evidence.run.partition:
        detail = "how many examples of each class every client has, in the run store"
        found.append(("The partition", "unprotected", detail))
    return found


def _public(evidence: Evidence) -> list[Item]:
    population = evidence.population
    size = f"{population:,}" if population else "their number"
    sizes = (
        " and every client's number of examples" if evidence.privacy["unit"] == "example" else ""
    )
    return [
        ("Number of clients", "public", f"{size}{sizes}: taken as known to everybody"),
        (
            "All settings",
            "public",
            "expected cohort, rounds, clipping norm, noise, learning rates, the model's shape",
        ),
    ]


def _tuning(evidence: Evidence) -> Item:
    what, bare = "Choosing the settings", [n for n in evidence.bare if n != evidence.run.id]
    others = len([name for name in evidence.noise if name != evidence.run.id])
    detail = "trying settings out spends privacy too; what is not in this ledger is not counted"
    if others:
        detail += f" ({others} other run(s) in it are, in the data set's total)"
    if bare:
        detail += f": {len(bare)} run(s) without privacy on the same data in this store alone"
    return what, NOT_ACCOUNTED, detail


def _initial(evidence: Evidence) -> Item:
    name = str((evidence.run.config.get("model") or {}).get("name") or "")
    if ":" in name:
        detail = f"{name} is the user's own code; whether it starts from other data is not recorded"
        return "The initial model", NOT_ACCOUNTED, detail
    return "The initial model", "public", "random, from the experiment's seed; it saw no data"
