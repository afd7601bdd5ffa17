"""What noise on columns spends: in a privacy ledger beside the pins, before it is let out.

Each record is noised by itself (unit "local", adjacency "replace-one"); columns of one record are
of one person, so that their epsilons add up (Dwork and Roth 2014, theorem 3.16).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.schema import Schema
from fedsim.anonymize.treating import is_dropped
from fedsim.privacy.ledger import Entry, Ledger, Spend, ledger_path

__all__ = ["charge", "claims"]


def claims(schema: Schema) -> dict[str, Any] | None:
    """Return the columns whose noise claims an epsilon, and the sums for a record, or None."""
    found = [
        {"column": name, "epsilon": treatment.epsilon, "delta": treatment.delta or 0.0}
        for name, treatment in _noisy(schema).items()
    ]
    if not found:
        return None
    total = {key: sum(each[key] for each in found) for key in ("epsilon", "delta")}
    return {"columns": found, **total}


def charge(
    folder: Path,
    schema: Schema,
    people: NDArray[np.uint64],
    *,
    row_set: str,
    run: str,
    dataset: str,
    time: str,
) -> None:
    """Write what a release spends into the ledger of its rows, in a folder.

    `people`: whose row each is; somebody with several spends as often. Raises `LedgerError`.
    """
    most = int(np.unique(people, return_counts=True)[1].max(initial=1)) if schema.subject else 1
    spends = tuple(
        Spend(release)
        for treatment in _noisy(schema).values()
        for release in treatment.releases(len(people), per_subject=most)
    )
    if not spends:
        return
    path = ledger_path(folder, dataset, row_set, "local")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Ledger(path).admit(Entry(run, 1, "local", dataset, time, "replace-one", spends))


def _noisy(schema: Schema) -> dict[str, Any]:
    return {
        name: column.treatment
        for name, column in schema.columns.items()
        if getattr(column.treatment, "epsilon", None) is not None and not is_dropped(schema, name)
    }
