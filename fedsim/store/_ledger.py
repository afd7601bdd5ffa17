"""A run's own copy of what it wrote into the ledger of its data set.

The ledger is the one that counts: it is on the disk before anything is released. The copy says what
a run knows of it, so that a ledger that lost its end, or was replaced, is found out.
"""

from typing import TYPE_CHECKING

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from fedsim.errors import RunFailedError
from fedsim.store._runs import RunStore
from fedsim.store._tables import LedgerRow

if TYPE_CHECKING:  # NumPy, and listing runs should not take seconds
    from fedsim.privacy.ledger import Receipt

__all__ = ["append_receipt", "receipts"]


def append_receipt(store: RunStore, receipt: "Receipt") -> None:
    """Keep a receipt with its run.

    Raises `UnknownRunError`, and `RunFailedError` when it is there already.
    """
    from fedsim.privacy.ledger import to_dict

    row = {
        "run_id": receipt.entry.run,
        "seq": receipt.number,
        "round": receipt.entry.round,
        "entry": to_dict(receipt.entry),
        "hash": receipt.hash,
    }
    with store._write() as session:
        try:
            session.execute(insert(LedgerRow).values(**row))
        except IntegrityError as error:
            store._must_exist(receipt.entry.run)
            raise RunFailedError(
                f"line {receipt.number} of the privacy ledger is stored with run "
                f"{receipt.entry.run} already. Is another process writing the same run?"
            ) from error


def receipts(store: RunStore, run_id: str) -> "tuple[Receipt, ...]":
    """Return the receipts of a run by round, and by line where a round has several."""
    from fedsim.privacy.ledger import Receipt, entry_from_dict

    query = (
        select(LedgerRow).where(LedgerRow.run_id == run_id).order_by(LedgerRow.round, LedgerRow.seq)
    )
    with store._read() as session:
        return tuple(
            Receipt(row.seq, row.hash, entry_from_dict(row.entry)) for row in session.scalars(query)
        )
