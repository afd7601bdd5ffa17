"""What each client has spent in a run with an individual filter: the server's private accounts.

One file for each run, in a folder of its own beside the ledger, written like a ledger: an entry is
on the disk before the sum that it is about gets its noise, and is never taken back. So who dies in
between has charged clients for what they never released, and a round that is made again is charged
again. The ledger itself has the whole budget of every client from the first round on; what is in
here depends on clients' updates, hence it is for the server alone, and not for publication.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsim.errors import LedgerError
from fedsim.privacy.budget import coarse
from fedsim.privacy.individual import IndividualFilter, IntArray, cost_of, released
from fedsim.privacy.ledger import Entry, Ledger, grouped

__all__ = ["Accounts", "accounts_path"]


def accounts_path(ledger: Path, run: str) -> Path:
    """Return where the accounts of a run are, by the ledger of its data set.

    >>> accounts_path(Path("runs/ledger/digits.aaaa.user.jsonl"), "dp-1a2b").as_posix()
    'runs/ledger/accounts/dp-1a2b.jsonl'
    """
    return ledger.parent / "accounts" / f"{run}.jsonl"


class Accounts:
    """The accounts of a run's clients; read from the disk when they are first needed.

    Only one process may write: the run itself. Raises what `Ledger` raises.
    """

    def __init__(self, path: Path, filter: IndividualFilter, clients: int) -> None:
        """Name the file; nothing is read or made yet."""
        self.filter = filter
        self._ledger, self._clients = Ledger(path), clients
        self._spent: IntArray | None = None
        self._latest = 0

    @property
    def spent(self) -> IntArray:
        """What each client has spent: int64 [clients]. Private."""
        if self._spent is None:
            self._spent = np.zeros(self._clients, np.int64)
            for entry in self._ledger.entries():
                self._count(entry)
        return self._spent

    def left(self, cohort: Sequence[int], round: int) -> list[int]:
        """Return who of a cohort can pay for a round, in its order.

        Raises `LedgerError` where rounds before were not charged: the file is not what it was.
        """
        may = self.filter.may(self.spent)
        if self._latest < round - 1:
            raise LedgerError(
                f"{self._ledger.path} has no charges for round {round - 1}, which took place: what "
                "each client has spent is not known any more. Restore the file from a backup, or "
                "start a new run"
            )
        return [client for client in cohort if may[client]]

    def charge(self, entry: Entry, norms: Mapping[int, float]) -> None:
        """Write down what a round's updates cost: `norms` by client, in clipping norms.

        `entry` is the round's, whatever it spends.
        """
        clients = sorted(norms)
        costs = self.filter.costs([norms[client] for client in clients])
        noise = self.filter.noise_multiplier
        spends = {c: released(int(k), noise) for c, k in zip(clients, costs, strict=True) if k}
        self._ledger.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = Entry(
            run=entry.run,
            round=entry.round,
            unit=entry.unit,
            dataset=entry.dataset,
            time=entry.time,
            adjacency=entry.adjacency,
            spends=grouped(spends),
        )
        self._ledger.admit(kept)
        if self._spent is not None:
            self._count(kept)

    def coarse(self) -> dict[str, tuple[float, float]]:
        """Return least, median and most of what clients spent, as quarters of the budget."""
        found = self.filter.epsilons(self.spent)
        return coarse(found.tolist(), self.filter.budget)

    def _count(self, entry: Entry) -> None:
        assert self._spent is not None
        self._latest = max(self._latest, entry.round)
        for spend in entry.spends:
            cost = cost_of(spend.release, self.filter.noise_multiplier)
            self._spent[list(spend.clients or ())] += cost
