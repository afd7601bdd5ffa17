"""What partitioners share: owners to shards, cutting by proportions, least sizes, refusals."""

import numpy as np
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.errors import ConfigError, Problem

__all__ = ["class_ids", "cut", "deal", "fill_up", "require_enough"]

_QUANTILES = 10
_OTHERS = "iid, quantity, or natural where the data set has natural clients"


def deal(
    owner: NDArray[np.int64],
    clients: int,
    rng: np.random.Generator,
    facts: dict[str, float] | None = None,
) -> Partition:
    """Return the partition in which client `owner[i]` has example i, each shard in random order."""
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    offsets = np.zeros(clients + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=clients), out=offsets[1:])
    return Partition(offsets, order.astype(np.int64), facts or {})


def cut(proportions: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Cut `total` at the running sums of `proportions` (which add up to 1), rounded down.

    >>> cut(np.array([0.5, 0.3, 0.2]), 11).tolist()
    [5, 3, 3]
    """
    ends = np.minimum((np.cumsum(proportions) * total).astype(np.int64), total)
    ends[-1] = total
    return np.diff(ends, prepend=0)


def class_ids(y: NDArray[np.generic], partition: str) -> NDArray[np.int64]:
    """Return the class of every example as 0..classes-1, of the classes that occur.

    A real-valued target is cut into ten quantiles. Raises `ConfigError` for sequences: they have
    one target per position and no single class.
    """
    if y.ndim != 1:
        accepted = f"{_OTHERS}: these examples are sequences without one label"
        raise ConfigError([Problem("partition.name", partition, accepted)])
    if y.dtype.kind == "f":
        edges = np.quantile(y.astype(np.float64), np.linspace(0, 1, _QUANTILES + 1)[1:-1])
        y = np.searchsorted(edges, y.astype(np.float64))
    return np.asarray(np.unique(y, return_inverse=True)[1], dtype=np.int64)


def require_enough(clients: int, examples: int, least: int = 1, field: str = "min_size") -> None:
    """Refuse more clients than there are examples for (`ConfigError`).

    `least`: what each client needs; `field` is the name of the field that says so.
    """
    if clients * least <= examples:
        return
    most = examples // least
    problems = [
        Problem(
            "partition.clients",
            clients,
            f"at most {most} clients can have {least} of the {examples} training examples each",
            "Ask for fewer clients" + (f" or lower partition.{field}." if least > 1 else "."),
        )
    ]
    raise ConfigError(problems)


def fill_up(
    owner: NDArray[np.int64], clients: int, min_size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Give clients below `min_size` random examples of those that can spare them.

    A client can spare what it has above `min_size`; all spare examples are equally likely to move.
    Returns the new owners and how many examples moved. There must be enough (`require_enough`).
    """
    sizes = np.bincount(owner, minlength=clients)
    missing = np.maximum(min_size - sizes, 0)
    count = int(missing.sum())
    if not count:
        return owner, 0
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]
    ends = np.cumsum(sizes)
    rank = np.arange(len(owner)) - np.repeat(ends - sizes, sizes)
    spare = order[rank >= min_size]
    filled = owner.copy()
    filled[rng.choice(spare, size=count, replace=False)] = np.repeat(np.arange(clients), missing)
    return filled, count
