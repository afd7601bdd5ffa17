"""What a partition looks like in numbers: sizes, classes per client, how far from IID."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._declared import Elsewhere
from fedsim.data._types import ClientData

__all__ = ["summarize"]

_SHOWN = 100  # clients in the table; the numbers cover up to `_MEASURED`
_MEASURED = 100_000


def summarize(clients: ClientData) -> dict[str, Any]:
    """Summarize a partition as JSON.

    `heterogeneity` is the mean total variation distance, weighted by shard size, between the
    class distribution of a client and that of all: 0 is IID, near 1 is disjoint classes; few
    examples per client alone raise it. For regression the classes are the target's deciles,
    for sequences the targets at all positions. Populations whose data are made on demand are
    measured on the first 100 clients; the table always has the first 100. `effective_clients` is
    how many clients of equal size would weigh the same, (sum of sizes)^2 / sum of squares.
    """
    sizes = clients.sizes()
    quantiles = np.quantile(sizes, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    # From how often each size occurs: a million clients would be copied at every step.
    size, often = np.unique(sizes, return_counts=True)
    counts, edges = np.histogram(size, bins=min(20, len(size) + 1), weights=often)
    summary: dict[str, Any] = {
        "clients": len(sizes),
        "examples": int(sizes.sum()),
        "sizes": {
            "min": int(sizes.min()),
            "median": float(quantiles[3]),
            "max": int(sizes.max()),
            "mean": float(sizes.mean()),
            "quantiles": [float(q) for q in quantiles],
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        },
        "effective_clients": float(sizes.sum() ** 2.0 / (size.astype(np.float64) ** 2 @ often)),
        "client_names": _client_names(clients),
    }
    if isinstance(clients, Elsewhere):  # what others have is not known here
        names = list(clients.declared.clients[:_SHOWN])
        unknown: dict[str, Any] = {
            "classes": [],
            "table": [],
            "heterogeneity": None,
            "measured_clients": 0,
        }
        return summary | unknown | {"client_names": names, "is_declared": True}
    table = _class_table(clients, len(sizes))
    names = list(clients.meta.class_names) or [str(i) for i in range(table.shape[1])]
    if clients.meta.kind == "regression":
        names = [f"decile {i + 1}" for i in range(table.shape[1])]
    return summary | {
        "classes": names[: table.shape[1]],
        "table": table[:_SHOWN].tolist(),
        "heterogeneity": _distance(table),
        "measured_clients": len(table),
    }


def _client_names(clients: ClientData) -> list[str]:
    """Name the first clients by their natural ids, if each client is one of those."""
    from fedsim.data._clients import PooledClients
    from fedsim.data._stored import StoredClients

    if isinstance(clients, StoredClients):
        return list(clients.survey.names[:_SHOWN])
    if not isinstance(clients, PooledClients) or clients.data.train.group is None:
        return []
    part = clients.train_part
    groups = np.asarray(clients.data.train.group)[part.indices]
    first = groups[part.offsets[:-1]]
    is_natural = len(np.unique(first)) == len(first)
    if not is_natural or (groups != np.repeat(first, np.diff(part.offsets))).any():
        return []
    return [clients.meta.group_names[i] for i in first[:_SHOWN]]


def _class_table(clients: ClientData, count: int) -> NDArray[np.int64]:
    """Count the targets of the first clients by client and class."""
    from fedsim.data._clients import PooledClients

    if isinstance(clients, PooledClients):
        y, part = np.asarray(clients.data.train.y), clients.train_part
        measured = min(count, _MEASURED)
        index = part.indices[: part.offsets[measured]]
        owner = np.repeat(np.arange(measured), np.diff(part.offsets[: measured + 1]))
        values = y[index]
    else:
        measured = min(count, _SHOWN)
        shards = [clients.train(i).y for i in range(measured)]
        owner = np.repeat(np.arange(measured), [len(shard) for shard in shards])
        values = np.concatenate(shards)
    if values.ndim > 1:
        owner, values = np.repeat(owner, values[0].size), values.ravel()
    if clients.meta.kind == "regression":
        values = np.searchsorted(np.quantile(values, np.linspace(0, 1, 11)[1:-1]), values)
    classes = 10 if clients.meta.kind == "regression" else max(clients.meta.outputs, 2)
    flat = np.bincount(owner * classes + values.astype(np.int64), minlength=measured * classes)
    return flat.reshape(measured, classes)


def _distance(table: NDArray[np.int64]) -> float:
    sizes = table.sum(axis=1)
    own = table / np.maximum(sizes, 1)[:, None]
    pooled = table.sum(axis=0) / table.sum()
    distances = np.abs(own - pooled).sum(axis=1) / 2
    return float((distances * sizes).sum() / sizes.sum())
