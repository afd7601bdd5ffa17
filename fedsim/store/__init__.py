"""The run store: every run, round and client, on SQLite or PostgreSQL."""

from fedsim.store._compare import compare
from fedsim.store._export import export
from fedsim.store._ledger import append_receipt, receipts
from fedsim.store._runs import RunStore, StoredRun, held
from fedsim.store._spending import spending, spending_of_run

__all__ = [
    "RunStore",
    "StoredRun",
    "append_receipt",
    "compare",
    "export",
    "held",
    "receipts",
    "spending",
    "spending_of_run",
]
