"""From a data set and a partition to clients: validated, dealt out once, opened everywhere.

A pooled data set is written once to a cache folder keyed by everything that determines it, and then
shared: any number of worker processes have one copy of it in memory, and the partition is computed
once however many there are.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim import rng
from fedsim.data._cache import Cache, Kept, Rows
from fedsim.data._contents import check
from fedsim.data._declared import Declared, OwnRows, declared_of, open_own, pooled
from fedsim.data._stored import Stored, open_stored
from fedsim.data._types import (
    BornFederated,
    ClientData,
    Dataset,
    Examples,
    Featured,
    Meta,
    Partition,
)
from fedsim.data.partition.natural import Natural
from fedsim.errors import ConfigError, DataError, Problem
from fedsim.sealing import StorageKeys

__all__ = [
    "PooledClients",
    "as_stored",
    "cache_key",
    "deal",
    "gather",
    "numbers",
    "open_clients",
    "pixels_of",
    "sizes_of",
    "tensors",
    "together",
    "with_client_column",
]

_CPU = torch.device("cpu")
_FORMAT = 3  # of the cache; a change makes old folders unused
_MAKERS = ("fedsim", "numpy", "pandas", "scikit-learn")  # a new version may make other contents


@dataclass(frozen=True, slots=True)
class PooledClients:
    """Clients of a pooled data set: parts deal out indices, of training and of held-out examples.

    `held_is_test`: held-out examples are in the test part, else in the training part, or in `held`
    where they are kept apart from it.
    """

    meta: Meta
    data: Dataset
    train_part: Partition
    held_part: Partition
    held_is_test: bool
    held: Examples | None = None

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return self.train_part.clients

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of every client."""
        return np.diff(self.train_part.offsets)

    def train(self, client: int) -> Examples:
        """Return one client's training examples."""
        return _take(self.data.train, self.train_part.shard(client))

    def held_out(self, client: int) -> Examples:
        """Return the examples one client is evaluated on."""
        source = self.data.test if self.held_is_test else self.data.train
        return _take(self.held or source, self.held_part.shard(client))

    def test(self) -> Examples:
        """Return the server's test set."""
        return self.data.test


def open_clients(
    data: Any,
    partition: Any,
    *,
    seed: int,
    holdout: float,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    keys: StorageKeys | None = None,
    own: OwnRows | None = None,
) -> ClientData:
    """Return the clients of an experiment, from the cache where they have been dealt out before.

    Data that are born federated come with their clients, so `partition` says nothing about them.
    `keys`: what the cache is sealed with; without, it is not. `own`: in place of the file that
    `data` names, of which nothing is read: the rows that are here; nothing is kept then. Raises
    `ConfigError`, `DataError`, `MissingDataError` or `NetworkError` for whatever could not be
    trained on.
    """
    if own is not None:
        return open_own(data, _must_declare(data), own)
    if isinstance(data, BornFederated):
        return data.open(seed, holdout)
    data = with_client_column(data, partition)
    cache = Cache(cache_dir, keys) if cache_dir else None
    if isinstance(data, Stored) and isinstance(partition, Natural):
        return open_stored(data, cache)

    def dealt() -> PooledClients:
        if (declared := declared_of(data)) is not None:
            return _deal_declared(data, declared)
        return deal(data.load(data_dir), partition, seed=seed, holdout=holdout)

    if cache is None:
        clients = dealt()
    else:
        kept = cache.kept(cache_key(data, partition, seed, holdout))
        if not kept.is_there:
            _save(dealt(), kept)
        clients = _load(kept)
    if not isinstance(data, Featured):
        return clients
    # After dealing out: features depend on no partition and no seed, so there is one copy of them.
    seen = data.featured(clients.data, cache)
    return replace(clients, meta=seen.meta, data=seen)


def deal(dataset: Dataset, partition: Any, *, seed: int, holdout: float) -> PooledClients:
    """Check a data set and deal it out to clients.

    Raises `DataError` for contents that cannot be trained on or a client without examples.
    """
    check(dataset)
    count = len(dataset.train.y)
    stream = rng.stream(seed, "partition")
    part = partition.assign(dataset.train.y, dataset.train.group, stream)
    _check_partition(part, count)
    groups = dataset.train.group, dataset.test.group
    if isinstance(partition, Natural) and groups[0] is not None and groups[1] is not None:
        # The test part knows its clients: nobody has to hold anything out.
        held = _test_parts(np.unique(groups[0]), groups[1])
        return PooledClients(dataset.meta, dataset, part, held, held_is_test=True)
    train, held = _hold_out(part, holdout, seed)
    return PooledClients(dataset.meta, dataset, train, held, held_is_test=False)


def _must_declare(data: Any) -> Declared:
    declared = declared_of(data)
    if declared is None:
        accepted = "what all clients have in common: nobody here has all rows to read it off"
        raise ConfigError([Problem("data.declared", {}, accepted)])
    return declared


def _deal_declared(data: Any, declared: Declared) -> PooledClients:
    """Deal out a pooled table to the clients that it declares."""
    if data.client is None:
        accepted = "the column that names the clients of data.declared, with partition.name=natural"
        raise ConfigError([Problem("partition.by", None, accepted)])
    dataset = pooled(data, declared, data.client)
    check(dataset)
    train, held = (
        Partition(_offsets(np.bincount(own, minlength=len(declared.clients))), np.arange(len(own)))
        for own in (dataset.train.group, dataset.test.group)
        if own is not None
    )
    return PooledClients(dataset.meta, dataset, train, held, held_is_test=True)


def tensors(examples: Examples, meta: Meta) -> tuple[Tensor, Tensor]:
    """Return examples as torch tensors: inputs ready for a model, targets for a loss."""
    return together([examples], meta)


def together(
    shards: Sequence[Examples], meta: Meta, device: torch.device = _CPU
) -> tuple[Tensor, Tensor]:
    """Return the examples of several clients, one client after another, as `tensors` does.

    Images go to the device as bytes, and become numbers there.
    """
    x, y = as_stored(shards, meta, device)
    return numbers(x, pixels_of(meta)) if x.dtype == torch.uint8 else x, y


def as_stored(
    shards: Sequence[Examples], meta: Meta, device: torch.device = _CPU
) -> tuple[Tensor, Tensor]:
    """Return what `together` does, with images as the uint8 they are stored as."""
    one = _joined(shards)
    arrays = (np.require(part, requirements="W") for part in (one.x, one.y))
    x, y = (torch.from_numpy(array).to(device) for array in arrays)
    return (
        x.float() if x.dtype == torch.float16 else x,
        y.float() if meta.kind == "regression" else y,
    )


def pixels_of(meta: Meta) -> tuple[float, float]:
    """Return (scale, shift), which make a byte x the number scale x + shift."""
    return 1 / (255 * meta.std), -meta.mean / meta.std


def numbers(x: Tensor, pixels: tuple[float, float]) -> Tensor:
    """Return uint8 images as float32."""
    scale, shift = pixels
    return x.float().mul_(scale).add_(shift)


def sizes_of(clients: ClientData, ids: Sequence[int]) -> list[int]:
    """Return how many training examples each of some clients has."""
    if isinstance(clients, PooledClients):  # its `sizes` are computed for all, each time
        offsets, own = clients.train_part.offsets, np.array(ids)
        return [int(n) for n in offsets[own + 1] - offsets[own]]
    return [int(n) for n in clients.sizes()[np.array(ids)]]


def gather(
    clients: ClientData, ids: Sequence[int], orders: NDArray[np.int64] | None = None
) -> Examples:
    """Return the training examples of several clients in a row, each client's in its order.

    `orders` [clients, most]: of each row as many as the client has examples. Of pooled data all are
    taken at once: a thousand small shards cost more calls than copying.
    """
    if not isinstance(clients, PooledClients):
        shards = [clients.train(client) for client in ids]
        if orders is not None:
            pairs = zip(shards, orders, strict=True)
            shards = [_take(shard, order[: len(shard.y)]) for shard, order in pairs]
        return _joined(shards)
    part, own = clients.train_part, np.array(ids)
    sizes = part.offsets[own + 1] - part.offsets[own]
    place = np.arange(sizes.max())
    is_real = place < sizes[:, None]
    within = np.broadcast_to(place, is_real.shape) if orders is None else orders[:, : len(place)]
    index = part.indices[(part.offsets[own][:, None] + within)[is_real]]
    return _take(clients.data.train, index)


def _joined(shards: Sequence[Examples]) -> Examples:
    if len(shards) == 1:
        return shards[0]
    x, y = (np.concatenate([getattr(shard, part) for shard in shards]) for part in "xy")
    return Examples(x, y)


def with_client_column(data: Any, partition: Any) -> Any:
    """Tell data that let one choose it which column is the client (`partition.by`)."""
    by = partition.by if isinstance(partition, Natural) else None
    if by is None:
        return data
    if "client" not in {field.name for field in fields(data)}:
        accepted = f"unset: data set {type(data).__name__.lower()!r} has no columns to choose from"
        raise ConfigError([Problem("partition.by", by, accepted)])
    return replace(data, client=by)


def _test_parts(ids: NDArray[np.int64], group: NDArray[np.int64]) -> Partition:
    """Give every natural client of the training part its own test examples, perhaps none."""
    place = np.minimum(np.searchsorted(ids, group), len(ids) - 1)
    known = np.flatnonzero(ids[place] == group)
    order = known[np.argsort(place[known], kind="stable")]
    return Partition(_offsets(np.bincount(place[known], minlength=len(ids))), order)


def _take(examples: Examples, index: NDArray[np.int64]) -> Examples:
    group = None if examples.group is None else examples.group[index]
    # `take` of whole rows is three times as fast as an index.
    return Examples(examples.x.take(index, axis=0), examples.y.take(index, axis=0), group)


def _hold_out(part: Partition, holdout: float, seed: int) -> tuple[Partition, Partition]:
    """Split every shard; at least one example stays in training. Each client draws for itself."""
    sizes = np.diff(part.offsets)
    held = np.minimum((sizes * holdout).astype(np.int64), sizes - 1)
    if not held.any():
        empty = np.zeros(len(part.offsets), dtype=np.int64)
        return part, Partition(empty, np.zeros(0, dtype=np.int64))
    train_parts, held_parts = [], []
    for client in range(part.clients):
        shard, number = part.shard(client), int(held[client])
        if number:
            shard = shard[rng.stream(seed, "holdout", client=client).permutation(len(shard))]
        train_parts.append(np.sort(shard[number:]))
        held_parts.append(np.sort(shard[:number]))
    return (
        Partition(_offsets(sizes - held), np.concatenate(train_parts), part.facts),
        Partition(_offsets(held), np.concatenate(held_parts)),
    )


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _check_partition(part: Partition, examples: int) -> None:
    sizes = np.diff(part.offsets)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        names = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} of {part.clients} clients have no training examples (clients {names}): "
            "use fewer partition.clients, a larger partition.min_size or a weaker skew"
        )
    if len(part.indices) and (part.indices.min() < 0 or part.indices.max() >= examples):
        raise DataError("the partition names examples that do not exist")
    if len(np.unique(part.indices)) != len(part.indices):
        raise DataError("the partition gives an example to two clients")


def cache_key(data: Any, partition: Any, seed: int, holdout: float, **more: Any) -> str:
    """Name what determines the contents; `more` is whatever else does.

    Files of known data sets are pinned by hash, so the part stands for them; a user's own file or
    folder counts with sizes and times.
    """
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "made_by": {name: version(name) for name in _MAKERS},
        "data": [type(data).__module__, type(data).__name__, asdict(data)],
        "partition": [type(partition).__module__, type(partition).__name__, asdict(partition)],
        "own_files": _stamps(data),
        "seed": seed,
        "holdout": holdout,
        **more,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return f"{type(data).__name__.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _stamps(data: Any) -> Any:
    """Return what changes when the contents of a user's own data do."""
    if isinstance(data, Stored):
        return data.store().stamp()
    return [_stamp(Path(v)) for v in asdict(data).values() if v and isinstance(v, str)]


def _stamp(path: Path) -> list[Any]:
    """Return path, size and time of a file, or of every file of a folder; else nothing."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _save(clients: PooledClients, kept: Kept) -> None:
    arrays: dict[str, NDArray[Any] | None] = {
        "train_x": clients.data.train.x,
        "train_y": clients.data.train.y,
        "train_group": clients.data.train.group,
        "test_x": clients.data.test.x,
        "test_y": clients.data.test.y,
        "test_group": clients.data.test.group,
        "offsets": clients.train_part.offsets,
        "indices": clients.train_part.indices,
        "held_offsets": clients.held_part.offsets,
        "held_indices": clients.held_part.indices,
    }
    facts = {
        "meta": asdict(clients.meta),
        "facts": dict(clients.train_part.facts),
        "held_is_test": clients.held_is_test,
    }
    rows = {name: Rows.of(array) for name, array in arrays.items() if array is not None}
    kept.write(rows, facts, clients.meta.sha256)


def _load(kept: Kept) -> PooledClients:
    array = kept.array

    def group(name: str) -> NDArray[Any] | None:
        return array(name) if kept.has(name) else None

    facts = kept.facts()
    lists = ("input_shape", "class_names", "group_names")
    meta = Meta(**facts["meta"] | {name: tuple(facts["meta"][name]) for name in lists})
    return PooledClients(
        meta,
        Dataset(
            meta,
            Examples(array("train_x"), array("train_y"), group("train_group")),
            Examples(array("test_x"), array("test_y"), group("test_group")),
        ),
        Partition(array("offsets"), array("indices"), facts["facts"]),
        Partition(array("held_offsets"), array("held_indices")),
        held_is_test=facts["held_is_test"],
    )
