"""What a recoding cost: measures of the information that is lost."""

from typing import Any

import numpy as np

from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.table import Encoded

__all__ = ["losses"]


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
