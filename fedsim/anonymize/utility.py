"""What a recoding cost, and how close its classes are where rows are suppressed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.models import t_closeness
from fedsim.anonymize.protection import histogram, targets
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.table import Encoded

__all__ = ["closeness", "losses"]


def losses(encoded: Encoded, recoding: Recoding, k: int = 1) -> dict[str, Any]:
    """Return measures of what a recoding lost.

    `ncp`: of each quasi-identifier, the mean over rows of (leaves covered - 1) / (leaves - 1), with
    1 for suppressed rows (Xu et al., KDD 2006, for hierarchies); `gcp`: their mean (Ghinita et al.,
    VLDB 2007). `discernibility`: the sum over rows of how many rows each cannot be told from,
    suppressed ones from all (Bayardo and Agrawal, ICDE 2005). `c_avg`: the mean class size by `k`
    (LeFevre et al., ICDE 2006). `classes`, `suppressed`: how many.
    """
    rows, sizes = encoded.rows, recoding.sizes
    ncp = {}
    for column, (name, tree) in enumerate(zip(encoded.names, encoded.trees, strict=True)):
        loss = recoding.values[column].loss(tree.leaves)[recoding.index[:, column]]
        ncp[name] = float((loss @ sizes + recoding.suppressed) / max(rows, 1))
    kept = rows - recoding.suppressed
    return {
        "gcp": float(np.mean(list(ncp.values()))),
        "ncp": ncp,
        "discernibility": int((sizes**2).sum() + recoding.suppressed * rows),
        "c_avg": kept / recoding.classes / k if recoding.classes else None,
        "classes": recoding.classes,
        "suppressed": recoding.suppressed,
    }


def closeness(
    encoded: Encoded,
    recoding: Recoding,
    references: Sequence[NDArray[np.number]] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the t of each sensitive column, in the senses that differ where rows are suppressed.

    `declared`: of the classes, from the whole table's distribution or the one given, which is what
    a recoding is held to. `kept`: from that of the rows that are kept, which is all that a reader
    of the released table can work out. `suppressed_as_class`: from the whole table's, suppressed
    rows being one more class, for tables that keep them.
    """
    found = {}
    suppressed = recoding.class_of < 0
    with_them = np.where(suppressed, recoding.classes, recoding.class_of)
    declared = targets(encoded.sensitive, references)
    for column, target in zip(encoded.sensitive, declared, strict=True):
        counts = histogram(with_them, column, recoding.classes + bool(suppressed.any()))
        kept, how = counts[: recoding.classes], (column.distance, column.tree)
        found[column.name] = {
            "declared": t_closeness.reached(kept, target.reference, *how),
            "kept": t_closeness.reached(kept, kept.sum(axis=0), *how) if len(kept) else 0.0,
            "suppressed_as_class": t_closeness.reached(counts, counts.sum(axis=0), *how),
        }
    return found
