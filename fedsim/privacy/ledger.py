"""The ledger: what was spent on a data set is on the disk before it is released.

One file per data set and unit of privacy, shared by all runs: a hash chain of JSON lines
(`fedsim.chain`), so that no line can be changed, moved or left out unnoticed. The run store and the
reports hold hashes to compare with.

A process that dies while it writes leaves a line without its end. That line was never acknowledged,
so nothing was released for it: it is set aside in a file of its own. A line that is whole counts,
whether or not its release took place.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsim.chain import Chain, Kind, Link
from fedsim.errors import LedgerError
from fedsim.privacy._entries import Entry, Spend, canonical, entry_from_dict, grouped, to_dict
from fedsim.privacy.budget import Budget, Spent
from fedsim.privacy.events import Unit

__all__ = [
    "Entry",
    "Ledger",
    "Receipt",
    "Spend",
    "entry_from_dict",
    "grouped",
    "ledger_path",
    "ledger_paths",
    "to_dict",
]

_KIND = Kind(
    format="fedsim privacy ledger 1",
    name="privacy ledger",
    if_broken="What was spent is not known any more: restore the file from a backup, or count "
    "its data as spent",
    if_closed="without it nothing is released. Make it writable, free some space, or choose "
    "another store with --runs or FEDSIM_RUNS",
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry in the ledger: `number`, from 1, is its line, `hash` its link in the chain."""

    number: int
    hash: str
    entry: Entry


def ledger_path(root: Path, dataset: str, sha256: str, unit: Unit) -> Path:
    """Return where the ledger of a data set is, by its name and the hash of its contents.

    `root`: the run store's folder. The same examples under another name, or prepared another way,
    are another data set: nobody can tell that they are of the same people.

    >>> ledger_path(Path("runs"), "heart disease", 64 * "a", "user").as_posix()
    'runs/ledger/heart-disease.aaaaaaaaaaaaaaaa.user.jsonl'
    """
    return root / "ledger" / f"{_safe(dataset)}.{sha256[:16]}.{unit}.jsonl"


def ledger_paths(
    root: Path, *, dataset: str | None = None, sha256: str | None = None, unit: Unit | None = None
) -> list[Path]:
    """Return the ledgers there are, by name; of one data set, contents or unit where given."""
    name = _safe(dataset) if dataset else "*"
    sha = sha256[:16] if sha256 else "*"
    return sorted((root / "ledger").glob(f"{name}.{sha}.{unit or '*'}.jsonl"))


def _safe(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)


class Ledger:
    """The ledger in a file; made by the first entry. Any number of processes may share it.

    Every method raises `LedgerError` where the file is not what was written into it, and
    `SetupError` where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or made yet."""
        self.path = path
        self._chain = Chain(path, _KIND, _entry, self._take, self._forget)
        self._spent = Spent()
        self._prepared: set[Budget] = set()

    def admit(self, entry: Entry, budget: Budget | None = None) -> Receipt:
        """Write an entry down if the budget allows it: all of it, or nothing.

        Call it before a round: when it returns, the entry is on the disk. What others have spent
        in the meantime counts. Raises `BudgetExceededError`; nothing was written then.
        """

        def all_of_it(spent: Spent) -> Entry:
            if budget:
                spent.check(entry, budget)
            return entry

        self._prepare(entry, budget)
        return self._admit(entry, all_of_it)

    def admit_those_left(self, entry: Entry, budget: Budget) -> Receipt:
        """Write an entry down without the clients whose own budget it would pass.

        Only the clients in the receipt's entry may take part. Raises `BudgetExceededError` when
        nobody is left.
        """
        self._prepare(entry, budget)
        return self._admit(entry, lambda spent: spent.those_left(entry, budget))

    def entries(self) -> tuple[Entry, ...]:
        """Read and verify the whole file; return its entries, oldest first."""
        return tuple(receipt.entry for receipt in self.receipts())

    def receipts(self) -> tuple[Receipt, ...]:
        """Read and verify the whole file; return its entries with their numbers and hashes."""
        return tuple(_receipt(link) for link in self._chain.links())

    def verify(self, known: Iterable[tuple[int, str]] = ()) -> Receipt | None:
        """Verify the whole file, and that it has the entries of `known`: (number, hash).

        Returns the last entry, None where there is none.
        """
        found = self.receipts()
        self.confirm(found, known)
        return found[-1] if found else None

    def confirm(self, found: Sequence[Receipt], known: Iterable[tuple[int, str]]) -> None:
        """Raise `LedgerError` unless what was read has the entries of `known`: (number, hash)."""
        self._chain.confirm([Link(own.number, own.hash, own.entry) for own in found], known)

    def spent(self) -> Spent:
        """Return what has been spent so far, by this and all other processes."""
        self._chain.follow()
        return self._spent

    def torn(self) -> tuple[Path, ...]:
        """Return the files in which unfinished lines were set aside."""
        return self._chain.torn()

    def _prepare(self, entry: Entry, budget: Budget | None) -> None:
        """Compute what takes long before the lock is taken, so that nobody waits for it."""
        if budget and budget not in self._prepared:
            self.spent().prepare(entry, budget)
            self._prepared.add(budget)

    def _admit(self, entry: Entry, decide: Callable[[Spent], Entry]) -> Receipt:
        def kept() -> tuple[Entry, bytes]:
            self._must_belong(entry)
            found = decide(self._spent)
            return found, canonical(found)

        return _receipt(self._chain.append(kept))

    def _must_belong(self, entry: Entry) -> None:
        first = self._spent.opening
        for key in ("dataset", "unit", "adjacency"):
            if first and getattr(first, key) != getattr(entry, key):
                raise LedgerError(
                    f"{self.path} is about {key} {getattr(first, key)!r}; run {entry.run} has "
                    f"{getattr(entry, key)!r}, and the two do not add up to one epsilon. "
                    f"Set it to {getattr(first, key)!r}, or choose another store with --runs"
                )

    def _take(self, entry: Entry) -> None:
        self._spent.add(entry)

    def _forget(self) -> None:
        self._spent = Spent()


def _receipt(link: Link[Entry]) -> Receipt:
    return Receipt(link.number, link.hash, link.entry)


def _entry(body: bytes) -> Entry:
    return entry_from_dict(json.loads(body))
