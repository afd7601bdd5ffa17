"""What partitioners share: building a `Partition`, labels to skew by, and filling small shards."""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.errors import ConfigError, Problem

__all__ = ["by_flower", "fill", "from_lists", "labels", "refuse_too_many"]

_BINS = 10


def from_lists(shards: Sequence[NDArray[np.int64]]) -> Partition:
    """Build a partition from one index array per client."""
    sizes = np.fromiter((len(shard) for shard in shards), dtype=np.int64, count=len(shards))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    indices = np.concatenate([np.asarray(shard, dtype=np.int64) for shard in shards])
    return Partition(offsets, indices)


def refuse_too_many(clients: int, examples: int, least: int) -> None:
    """Raise `ConfigError` where there are not enough examples for every client."""
    if clients * max(least, 1) > examples:
        accepted = f"at most {examples // max(least, 1)}: there are {examples} training examples"
        accepted += f" and every client needs {least}" if least > 1 else ""
        raise ConfigError([Problem("partition.clients", clients, accepted)])


def labels(y: NDArray[np.generic], partition: str) -> NDArray[np.int64]:
    """Return one class per example to skew by; a real-valued target is cut into ten quantiles.

    Raises `ConfigError` for sequences, which have no single label.
    """
    if y.ndim != 1:
        accepted = "natural, iid or quantity: these examples are sequences without one label"
        raise ConfigError([Problem("partition.name", partition, accepted)])
    if y.dtype.kind == "f":
        edges = np.quantile(y.astype(np.float64), np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.searchsorted(edges, y.astype(np.float64)).astype(np.int64)
    return y.astype(np.int64)


def by_flower(make: Callable[[], Any], label: NDArray[np.int64]) -> Partition:
    """Partition labels with a partitioner of flwr-datasets.

    Its own interface hands out one data set per client, at over a millisecond each: 100,000 clients
    would take minutes after an assignment of seconds. So the assignment is read directly.

    Raises `ConfigError` with Flower's reason where it refuses.
    """
    import warnings

    from datasets import Dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries below it; ours is raised from the result
        try:
            partitioner = make()
            partitioner.dataset = Dataset.from_dict({"label": label})
            partitioner.load_partition(0)
        except ValueError as error:
            raise ConfigError([Problem("partition", make.__doc__ or "", str(error))]) from error
        assigned = partitioner._partition_id_to_indices
    return from_lists([np.asarray(assigned[i], dtype=np.int64) for i in range(len(assigned))])


def fill(partition: Partition, least: int, stream: np.random.Generator) -> Partition:
    """Bring every shard to `least` examples, moving random ones from the largest shards.

    Shards that are large enough and not among the largest are untouched.
    """
    sizes = np.diff(partition.offsets)
    if sizes.min() >= least:
        return partition
    shards: list[NDArray[np.int64]] = [partition.shard(i) for i in range(partition.clients)]
    largest = [(-int(size), i) for i, size in enumerate(sizes) if size > least]
    heapq.heapify(largest)
    for client in np.flatnonzero(sizes < least):
        while len(shards[client]) < least:
            size, donor = heapq.heappop(largest)
            taken = int(stream.integers(-size))
            shards[client] = np.append(shards[client], shards[donor][taken])
            shards[donor] = np.delete(shards[donor], taken)
            if -size - 1 > least:
                heapq.heappush(largest, (size + 1, donor))
    filled = from_lists(shards)
    return Partition(filled.offsets, filled.indices, {"filled": float((sizes < least).sum())})
