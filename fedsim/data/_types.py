"""What data parts return. NumPy arrays here; they become torch tensors where a client trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedsim.data._cache import Cache

__all__ = [
    "BornFederated",
    "ClientData",
    "Dataset",
    "Examples",
    "Featured",
    "Meta",
    "Partition",
    "RawTable",
    "Tabular",
]

#: classification: y int64 class ids, shape [n] or [n, length] (one target per position).
#: binary: y int64 0/1, one model output. regression: y float32, one model output.
Kind = Literal["classification", "binary", "regression"]


@dataclass(frozen=True, slots=True)
class Examples:
    """`x` float32 [n, ...], or uint8 images, or int64 tokens [n, length]; `y` as `Kind` says.

    Features that were computed once are kept as float16, and float32 where a model sees them.
    `group` int64 [n] is the natural client of each example (hospital, speaker), if there is one.
    """

    x: NDArray[np.generic]
    y: NDArray[np.generic]
    group: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """What a model and a report need to know of a data set without reading it.

    `outputs`: classes, vocabulary size, or 1. uint8 images are fed as (x / 255 - mean) / std.
    `vocabulary`: number of input tokens, 0 where inputs are real-valued. `sha256`: of the contents.
    `most_examples`: that a client trains on, where that is declared; 0: as many as the largest has.
    """

    name: str
    kind: Kind
    input_shape: tuple[int, ...]
    outputs: int
    sha256: str
    vocabulary: int = 0
    mean: float = 0.0
    std: float = 1.0
    class_names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    most_examples: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """A pooled data set; a partition deals `train` out to clients, `test` is the server's."""

    meta: Meta
    train: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class RawTable:
    """The rows behind a data set, as they were collected: what anonymization begins with.

    `train` and `test` are pandas frames, row by row the examples of `dataset`; column `target` says
    what there is to learn, the others may be inputs.
    """

    dataset: Dataset
    train: Any
    test: Any
    target: str


@dataclass(frozen=True, slots=True)
class Partition:
    """The map from examples to shards: client i has `indices[offsets[i]:offsets[i + 1]]`."""

    offsets: NDArray[np.int64]
    indices: NDArray[np.int64]
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def clients(self) -> int:
        """Return the number of shards."""
        return len(self.offsets) - 1

    def shard(self, client: int) -> NDArray[np.int64]:
        """Return the example indices of one client."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]


class ClientData(Protocol):
    """The data of a population: every client's examples, made or read only when asked for."""

    @property
    def meta(self) -> Meta:
        """Describe the data."""
        ...

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        ...

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of every client."""
        ...

    def train(self, client: int) -> Examples:
        """Return the training examples of one client."""
        ...

    def held_out(self, client: int) -> Examples:
        """Return the examples one client is evaluated on; may be empty."""
        ...

    def test(self) -> Examples:
        """Return the server's test set."""
        ...


@runtime_checkable
class BornFederated(Protocol):
    """A data set that comes as clients: no partition deals it out (`synthetic`)."""

    def open(self, seed: int, holdout: float) -> ClientData:
        """Return the population; clients keep `holdout` of their examples for evaluation."""
        ...


@runtime_checkable
class Tabular(Protocol):
    """A pooled data set that is a table of people: its rows can be had as they were collected."""

    @property
    def target(self) -> str:
        """Return the name of the column there is to learn."""
        ...

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return the raw rows. Raises what `load` raises."""
        ...


@runtime_checkable
class Featured(Protocol):
    """A pooled data set that may be trained on as features of its inputs, which are costly."""

    def featured(self, dealt: Dataset, cache: Cache | None) -> Dataset:
        """Return what models see in place of `dealt`; what takes long is kept in the cache."""
        ...
