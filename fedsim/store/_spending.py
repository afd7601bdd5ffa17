"""What was spent on data sets, by whom, when, and what remains: for `fedsim privacy ledger`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest
from fedsim.store._ledger import receipts
from fedsim.store._runs import RunStore, StoredRun

if TYPE_CHECKING:  # NumPy, and listing runs should not take seconds
    from fedsim.privacy.budget import Budget
    from fedsim.privacy.events import Adjacency, Release, Unit
    from fedsim.privacy.ledger import Receipt

__all__ = ["spending", "spending_of_run"]

DELTA = 1e-5  # where no run says at which delta to report
_EXACT = 8  # client histories that get a privacy loss distribution; more only a Rényi bound


def spending_of_run(store: RunStore, run: str) -> list[dict[str, Any]]:
    """Return the ledgers that a run wrote into: see `spending`; none where it spent nothing.

    Raises `UnknownRunError`, and `LedgerError` where a ledger is broken, or lacks what the run
    knows that it wrote.
    """
    from fedsim.privacy.ledger import Ledger, ledger_path, ledger_paths

    stored = store.get(run)
    sha256 = str(stored.facts.get("data_sha256", ""))
    known = {
        ledger_path(store.root, r.entry.dataset, sha256, r.entry.unit)
        for r in receipts(store, stored.id)
    }
    # A run that died between the ledger and its own rows is in the ledger alone.
    others = set(ledger_paths(store.root, sha256=sha256)) - known if sha256 else set()
    written = [p for p in others if any(e.run == stored.id for e in Ledger(p).entries())]
    return [_spending(store, path, stored) for path in sorted({*known, *written})]


def spending(
    store: RunStore, *, dataset: str | None = None, unit: "Unit | None" = None
) -> list[dict[str, Any]]:
    """Return the state of each ledger in a store, of one data set and unit where given, verified.

    `epsilon` is that of the client that spent most, at the `delta` of `cap`: the cap of the run
    that wrote last. `rounds_left`: how many more rounds like the last one fit. Of each run there is
    the `epsilon` that it would have alone, and `by_client`, coarsely, where clients have accounts
    of their own. Raises `ConfigError` where there is no such ledger and `LedgerError` where one is
    broken.
    """
    from fedsim.privacy.ledger import ledger_paths

    paths = ledger_paths(store.root, dataset=dataset, unit=unit)
    if not paths and (dataset or unit):
        names = sorted({path.name.split(".")[0] for path in ledger_paths(store.root)})
        accepted = (
            f"a data set with a ledger in {store.root}: {', '.join(names) or 'there is none'}"
        )
        where, what = ("--dataset", dataset) if dataset else ("--unit", unit)
        raise ConfigError([Problem(where, what, accepted, suggest(str(dataset), names))])
    return [_spending(store, path) for path in paths]


def _spending(store: RunStore, path: Path, run: StoredRun | None = None) -> dict[str, Any]:
    """Verify a ledger, by what its runs know of it too; add it up."""
    from fedsim.privacy.ledger import Ledger

    ledger = Ledger(path)
    found = ledger.receipts()
    stored = {each.id: each for each in store.all()}
    runs = {r.entry.run: stored.get(r.entry.run) for r in found} | ({run.id: run} if run else {})
    known = [
        (kept.number, kept.hash)
        for name in runs
        for kept in receipts(store, name)
        if _is_of(kept, path)
    ]
    ledger.confirm(found, known)
    if not found:
        return {"path": str(path), "entries": 0, "verified": True, "runs": []}
    last = found[-1]
    by_run: dict[str, list[Receipt]] = {name: [] for name in runs}
    for receipt in found:
        by_run[receipt.entry.run].append(receipt)
    budget = _cap(run, *(runs[r.entry.run] for r in reversed(found)))
    delta = budget.delta if budget else DELTA
    return {
        "path": str(path),
        "dataset": last.entry.dataset,
        "unit": last.entry.unit,
        "adjacency": last.entry.adjacency,
        "entries": last.number,
        "verified": True,
        "hash": last.hash,
        "torn": [str(file) for file in ledger.torn()],
        **_remains(found, budget, delta),
        "runs": [
            _of_run(own, runs[name], name, delta) | _accounts(path, runs[name])
            for name, own in by_run.items()
            if own
        ],
    }


def _remains(found: Sequence["Receipt"], budget: "Budget | None", delta: float) -> dict[str, Any]:
    from fedsim.privacy.budget import coarse

    spent, last = _spent(found), found[-1].entry
    epsilons = _epsilons(spent.histories(), delta, last.adjacency)
    most = max(epsilons, default=0.0)
    remains: dict[str, Any] = {"cap": None, "delta": delta, "epsilon": most}
    if budget:
        remains |= {
            "cap": {"epsilon": budget.epsilon, "delta": budget.delta},
            "remaining": max(0.0, budget.epsilon - most),
            "rounds_left": spent.left(last, budget) if last.spends else None,
            "clients": coarse(epsilons, budget) if len(epsilons) > 1 else None,
        }
    return remains


def _of_run(
    own: Sequence["Receipt"], stored: StoredRun | None, name: str, delta: float
) -> dict[str, Any]:
    rounds, times = [r.entry.round for r in own], [r.entry.time for r in own]
    histories = _spent(own).histories()
    return {
        "run": name,
        "status": stored.status if stored else "deleted",
        "unit": own[0].entry.unit,
        "entries": len(own),
        "rounds": [min(rounds), max(rounds)],
        "repeated": len(rounds) - len(set(rounds)),
        "first": min(times),
        "last": max(times),
        "epsilon": max(_epsilons(histories, delta, own[0].entry.adjacency), default=0.0),
    }


def _accounts(ledger: Path, run: StoredRun | None) -> dict[str, Any]:
    """Return what a run's clients have spent by accounts of their own, where they have any."""
    from fedsim.privacy.accounts import Accounts, accounts_path
    from fedsim.privacy.individual import filter_of

    own = filter_of((run.config.get("privacy") if run else None) or {})
    clients = run.facts.get("clients") if run else None
    if own is None or run is None or not clients:
        return {}
    found = Accounts(accounts_path(ledger, run.id), own, int(clients)).coarse()
    return {"by_client": {"budget": own.budget.epsilon, "coarse": found}}


def _spent(found: Sequence["Receipt"]) -> Any:
    from fedsim.privacy.budget import Spent

    spent = Spent()
    for receipt in found:
        spent.add(receipt.entry)
    return spent


def _epsilons(
    histories: "Sequence[tuple[tuple[Release, ...], int]]", delta: float, adjacency: "Adjacency"
) -> list[float]:
    """Return each client's epsilon; but of the few with most, only a bound."""
    from fedsim.privacy import accounting

    bounds = []
    for releases, clients in histories:
        renyi = accounting.Renyi(adjacency)
        for release in releases:
            renyi = renyi.compose(release)
        bounds.append((renyi.epsilon(delta), releases, clients))
    bounds.sort(key=lambda bound: bound[0], reverse=True)
    found: list[float] = []
    for place, (bound, releases, clients) in enumerate(bounds):
        exact = accounting.epsilon(releases, delta, adjacency) if place < _EXACT else bound
        found += [min(bound, exact)] * clients
    return found


def _cap(*runs: StoredRun | None) -> "Budget | None":
    """Return the cap of the first run that has one."""
    from fedsim.privacy.budget import Budget

    for run in runs:
        privacy = (run.config.get("privacy") if run else None) or {}
        if privacy.get("epsilon") and privacy.get("delta"):
            return Budget(float(privacy["epsilon"]), float(privacy["delta"]))
    return None


def _is_of(receipt: "Receipt", path: Path) -> bool:
    from fedsim.privacy.ledger import ledger_path

    entry = receipt.entry
    named = ledger_path(path.parent.parent, entry.dataset, path.name.split(".")[1], entry.unit)
    return named == path
