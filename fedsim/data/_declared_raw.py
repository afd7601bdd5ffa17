"""The raw rows of a table whose clients share nothing but what was declared.

For anonymization, which begins with rows as they were collected: split as `fedsim.data._declared`
does it, of all clients, or of the one whose file is here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._clients import PooledClients
from fedsim.data._contents import content_sha256
from fedsim.data._declared import (
    Declared,
    OwnRows,
    dealt_own,
    filled,
    meta_of,
    read_columns,
    targets,
)
from fedsim.data._raw import RawClients
from fedsim.data._types import Dataset, Examples, Partition, RawTable
from fedsim.errors import ConfigError, DataError, Problem

__all__ = ["raw_nobody", "raw_own", "raw_pooled"]

_Parts = tuple[Any, Any, NDArray[np.generic], NDArray[np.generic]]


def raw_own(data: Any, declared: Declared, own: OwnRows, columns: Sequence[str]) -> RawClients:
    """Return the rows of the client whose file is here, as if there were no other.

    `columns`: nothing else is read. Raises what reading the file raises.
    """
    wanted = dict.fromkeys([*columns, data.target])
    frame = read_columns(own.path, wanted, own.most_rows)
    labels = read_columns(own.path, {data.target: _kind(declared)}, own.most_rows)[data.target]
    parts = _parts(frame, labels, data, declared, own.path)
    return _dealt(data, declared, [parts])


def raw_nobody(data: Any, declared: Declared, columns: Sequence[str]) -> RawClients:
    """Return no rows at all, as one client that has none: what a server without rows knows."""
    import pandas as pd

    frame, y = pd.DataFrame(columns=list(columns)), targets([], declared, "")
    return _dealt(data, declared, [(frame, frame, y, y)])


def raw_pooled(data: Any, declared: Declared) -> RawClients:
    """Return the rows of a pooled table, each client's split by itself.

    Raises what reading the file raises, and `DataError` for clients that are not declared.
    """
    if data.client is None:
        accepted = "the column that names the clients of data.declared, with partition.name=natural"
        raise ConfigError([Problem("partition.by", None, accepted)])
    frame = read_columns(data.path, None)
    kinds = {data.target: _kind(declared), data.client: str}
    labels = read_columns(data.path, kinds)
    owner = labels[data.client].to_numpy()
    if strange := sorted({str(name) for name in owner} - set(declared.clients)):
        raise DataError(
            f"{data.path}: clients that data.declared has not: {', '.join(strange[:5])}"
        )
    frame = frame.drop(columns=[data.client])
    return _dealt(
        data,
        declared,
        [
            _parts(frame[owner == n], labels[data.target][owner == n], data, declared, n)
            for n in declared.clients
        ],
    )


def _kind(declared: Declared) -> Any:
    return np.float64 if declared.task == "regression" else str


def _parts(frame: Any, labels: Any, data: Any, declared: Declared, where: str) -> _Parts:
    """Return one client's (training rows, held-out rows) and the targets of both."""
    if data.missing != "mean":  # else empty cells are the schema's to deal with
        frame = filled(frame, data, where, {})
    y = targets(labels.loc[frame.index], declared, where)
    train, test = dealt_own(y, data, declared, where)
    return frame.iloc[train], frame.iloc[test], y[train], y[test]


def _dealt(data: Any, declared: Declared, clients: Sequence[_Parts]) -> RawClients:
    import pandas as pd

    train_rows, test_rows = (
        pd.concat([parts[i] for parts in clients]).reset_index(drop=True) for i in range(2)
    )
    examples = [_examples([parts[i] for parts in clients]) for i in (2, 3)]
    meta = meta_of(data, declared, content_sha256(*examples))
    dataset = Dataset(meta, *examples)
    train, held = (_partition(part, len(clients)) for part in examples)
    dealt = PooledClients(meta, dataset, train, held, held_is_test=True)
    return RawClients(RawTable(dataset, train_rows, test_rows, data.target), dealt)


def _examples(targets: Sequence[NDArray[np.generic]]) -> Examples:
    """Return targets, one client's after the other's; their inputs are made later."""
    sizes = [len(own) for own in targets]
    group = np.repeat(np.arange(len(targets), dtype=np.int64), sizes)
    return Examples(np.zeros((sum(sizes), 0), np.float32), np.concatenate(targets), group)


def _partition(part: Examples, clients: int) -> Partition:
    assert part.group is not None
    offsets = np.concatenate([[0], np.cumsum(np.bincount(part.group, minlength=clients))])
    return Partition(offsets.astype(np.int64), np.arange(len(part.y)))
