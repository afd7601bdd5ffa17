"""What a privacy report is made of: a ledger that was verified, and what the store has of its runs.

Nothing else is looked at: no clock, no network, no data. The same ledger and the same rows in the
store give the same report.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, Problem, SetupError
from fedsim.privacy.accounts import Accounts, accounts_path
from fedsim.privacy.individual import filter_of
from fedsim.privacy.ledger import Entry, Ledger, Receipt, ledger_path, ledger_paths
from fedsim.run_files import files_of
from fedsim.store import RunStore, StoredRun, receipts

__all__ = ["Evidence", "Refusal", "gather"]

_REFUSED = re.compile(r"(\S+) failed: round (\d+) of run (\S+) is refused, (.*)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A round that the budget did not allow, as the run's log has it."""

    time: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known of a run's privacy.

    `ledger`: the file's name, "" where there is none; `receipts`: all its entries, of all runs,
    oldest first. `noise`: of each run in it "secret", "seeded", or "unknown" where the store has
    the run no more. `spent_by_clients`: least, median and most that clients spent by accounts of
    their own, in quarters of their budget; None without such accounts. `bare`: runs in the store on
    the same data without a unit of privacy; `elsewhere`: ledgers of the same data in other units.
    `refused` is None where there is no log.
    """

    run: StoredRun
    ledger: str
    receipts: tuple[Receipt, ...]
    torn: int
    noise: Mapping[str, str]
    spent_by_clients: Mapping[str, tuple[float, float]] | None
    bare: tuple[str, ...]
    elsewhere: tuple[str, ...]
    refused: tuple[Refusal, ...] | None

    @property
    def privacy(self) -> Mapping[str, Any]:
        """The run's `[privacy]` settings."""
        return self.run.config["privacy"]  # type: ignore[no-any-return]

    @property
    def own(self) -> list[Entry]:
        """The run's own entries, oldest first."""
        return [r.entry for r in self.receipts if r.entry.run == self.run.id]

    @property
    def every(self) -> list[Entry]:
        """All runs' entries, oldest first."""
        return [r.entry for r in self.receipts]

    @property
    def population(self) -> int | None:
        """How many clients there are, None where the store does not say."""
        found = self.run.facts.get("clients") or self.run.partition.get("clients")
        return int(found) if found else None


def gather(store: RunStore, run: str) -> Evidence:
    """Collect and verify what is known of a run.

    Raises `UnknownRunError`; `ConfigError` for a run without a unit of privacy; `LedgerError` where
    the ledger is broken, or lacks what a run knows that it wrote.
    """
    stored = store.get(run)
    runs = {each.id: each for each in store.all()}
    if _unit(stored) == "none":
        raise _without_unit(stored, list(runs.values()))
    kept = {stored.id: receipts(store, stored.id)}
    path = _path(store, stored, kept[stored.id])
    ledger = Ledger(path) if path else None
    found = _verified(store, ledger, kept) if ledger else ()
    sha = str(stored.facts.get("data_sha256", ""))
    others = ledger_paths(store.root, sha256=sha) if sha else []
    return Evidence(
        run=stored,
        ledger=path.name if path else "",
        receipts=found,
        torn=len(ledger.torn()) if ledger else 0,
        noise={name: _noise(runs.get(name)) for name in {r.entry.run: None for r in found}},
        spent_by_clients=_accounts(stored, ledger),
        bare=tuple(
            name
            for name, each in runs.items()
            if sha and each.facts.get("data_sha256") == sha and _unit(each) == "none"
        ),
        elsewhere=tuple(p.name for p in others if p != path),
        refused=_refusals(stored),
    )


def _unit(run: StoredRun) -> str:
    return str((run.config.get("privacy") or {}).get("unit") or "none")


def _noise(run: StoredRun | None) -> str:
    if run is None:
        return "unknown"
    return str((run.config.get("privacy") or {}).get("noise") or "secret")


def _accounts(run: StoredRun, ledger: Ledger | None) -> Mapping[str, tuple[float, float]] | None:
    own = filter_of(run.config.get("privacy") or {})
    clients = run.facts.get("clients")
    if own is None or ledger is None or not clients:
        return None
    return Accounts(accounts_path(ledger.path, run.id), own, int(clients)).coarse()


def _path(store: RunStore, run: StoredRun, kept: Sequence[Receipt]) -> Path | None:
    """Return the ledger that a run wrote into, or would have: of its data and its unit."""
    sha, unit = str(run.facts.get("data_sha256", "")), _unit(run)
    if kept:
        return ledger_path(store.root, kept[0].entry.dataset, sha, kept[0].entry.unit)
    found = ledger_paths(store.root, sha256=sha) if sha else []
    found = [path for path in found if path.name.endswith(f".{unit}.jsonl")]
    # A run that died between the ledger and its own rows is in the ledger alone.
    written = [path for path in found if any(e.run == run.id for e in Ledger(path).entries())]
    return next(iter([*written, *found]), None)


def _verified(
    store: RunStore, ledger: Ledger, kept: Mapping[str, Sequence[Receipt]]
) -> tuple[Receipt, ...]:
    """Return all entries, compared with what every run in the ledger knows that it wrote."""
    found = ledger.receipts()
    folder, sha = ledger.path.parent.parent, ledger.path.name.split(".")[1]
    names = {**kept, **{r.entry.run: () for r in found}}
    known = [
        (receipt.number, receipt.hash)
        for name in names
        for receipt in (kept[name] if name in kept else receipts(store, name))
        if ledger_path(folder, receipt.entry.dataset, sha, receipt.entry.unit) == ledger.path
    ]
    hashes = {receipt.number: receipt.hash for receipt in found}
    if any(hashes.get(number) != hash for number, hash in known):
        ledger.verify(known)  # reads it again, to say what is wrong
    return found


def _refusals(run: StoredRun) -> tuple[Refusal, ...] | None:
    """Return what the log says was refused; None where there is no log, or no key to read it."""
    try:
        lines = files_of(run.folder, run.id, run.config).log().text.splitlines()
    except SetupError:
        return None
    found = [match for match in map(_REFUSED.fullmatch, lines) if match and match[3] == run.id]
    return tuple(Refusal(match[1], int(match[2]), match[4]) for match in found)


def _without_unit(run: StoredRun, runs: Sequence[StoredRun]) -> ConfigError:
    """Say what is nearest: what the run did instead, and the latest run that has a report."""
    hint = f"What it is, and what it is not, is in: fedsim report {run.id}."
    if notice := run.facts.get("notice"):
        hint = f"{notice} {hint}"
    private = [each for each in runs if _unit(each) != "none"]
    same = [each for each in private if each.name == run.name] or private
    if same:
        hint += f" The latest run with a unit: fedsim privacy report {same[-1].id}"
    else:
        hint += " For a private one: fedsim run EXPERIMENT privacy.unit=user privacy.epsilon=3"
    accepted = f"a unit of privacy; run {run.id} has none, so nothing was promised or accounted"
    return ConfigError([Problem("privacy.unit", "none", accepted, hint)])
