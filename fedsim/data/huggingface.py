"""Any data set of the Hugging Face hub, by name, through flwr-datasets."""

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256, split
from fedsim.data._types import Dataset, Examples, Kind, Meta
from fedsim.errors import ConfigError, DataError, NetworkError, Problem
from fedsim.registry import suggest

__all__ = ["Huggingface"]


@dataclass(frozen=True, slots=True)
class Huggingface:
    """`data.name=huggingface data.dataset=ylecun/mnist`, or a folder written by `save_to_disk`.

    `features`: the input column (images or lists of numbers), found by itself when unset; `label`:
    the target column (classes, or real numbers for regression); `client`: the column that names the
    natural client (`partition.by` sets it). Without a split named `test` a fifth of `train` is the
    test part. Images are standardized by one mean and deviation of the training part. Needs a
    network unless the set is in the hub's own cache.
    """

    dataset: str = ""
    subset: str | None = None
    features: str | None = None
    label: str = "label"
    client: str | None = None
    train: str = "train"
    test: str = "test"

    files: ClassVar = ()
    facts: ClassVar = {"task": "any", "examples": "any", "licence": "see the hub"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Fetch and convert. Raises `NetworkError` where the hub cannot be reached."""
        parts = self._splits()
        for key, name in (("label", self.label), ("client", self.client)):
            if name is not None:
                _require_column(f"data.{key}", name, parts[0].column_names)
        column = self.features or _input_column(parts[0], self.label, self.client)
        _require_column("data.features", column, parts[0].column_names)
        classes = _class_names(parts, self.label)
        names = self._client_names(parts)
        train, test = (self._examples(part, column, classes, names) for part in parts)
        kind: Kind = "classification" if classes else "regression"
        outputs = max(len(classes), 1)
        meta = Meta(
            name=self.dataset,
            kind=kind,
            input_shape=train.x.shape[1:],
            outputs=outputs,
            sha256=content_sha256(train, test),
            mean=float(train.x.mean() / 255) if train.x.dtype == np.uint8 else 0.0,
            std=float(train.x.std() / 255) if train.x.dtype == np.uint8 else 1.0,
            class_names=classes,
            group_names=tuple(names),
            source=self.dataset,
        )
        return Dataset(meta, train, test)

    def _splits(self) -> tuple[Any, Any]:
        """Return (train, test) as Hugging Face tables."""
        if not self.dataset:
            accepted = "the name of a data set on the hub, or a folder written by save_to_disk"
            raise ConfigError([Problem("data.dataset", self.dataset, accepted)])
        splits = _from_disk(self.dataset) if Path(self.dataset).is_dir() else self._from_hub()
        self._check_splits(list(splits))
        if self.test in splits:
            return splits[self.train], splits[self.test]
        train, test = split(np.arange(len(splits[self.train])), 0.2, stratify=False)
        return splits[self.train].select(train), splits[self.train].select(test)

    def _check_splits(self, names: list[str]) -> None:
        accepted = f"a split: {', '.join(names)}"
        if self.train not in names:
            raise ConfigError([Problem("data.train", self.train, accepted)])
        if self.test not in names and self.test != "test":
            raise ConfigError([Problem("data.test", self.test, accepted)])

    def _from_hub(self) -> dict[str, Any]:
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        from datasets import get_dataset_split_names
        from flwr_datasets import FederatedDataset

        try:
            with _without_retries():
                names = get_dataset_split_names(self.dataset, self.subset)
                self._check_splits(names)
                hub = FederatedDataset(dataset=self.dataset, subset=self.subset, partitioners={})
                return {
                    name: hub.load_split(name) for name in (self.train, self.test) if name in names
                }
        except ValueError as error:
            accepted = f"a data set the hub can give: {error}"
            raise ConfigError([Problem("data.dataset", self.dataset, accepted)]) from error
        except OSError as error:
            raise NetworkError(
                f"data.dataset = {self.dataset!r}: the Hugging Face hub did not give it "
                f"({type(error).__name__}: {str(error).splitlines()[0]}). Check the name and the "
                "network, or give the folder of a data set saved with save_to_disk"
            ) from error

    def _client_names(self, parts: tuple[Any, Any]) -> list[str]:
        if self.client is None:
            return []
        return sorted({str(value) for part in parts for value in part[self.client]})

    def _examples(
        self, part: Any, column: str, classes: tuple[str, ...], names: list[str]
    ) -> Examples:
        y = np.asarray(part[self.label])
        if y.dtype.kind in "OUST":
            places = {name: i for i, name in enumerate(classes)}
            y = np.array([places[str(value)] for value in y])
        y = y.astype(np.int64 if classes else np.float32)
        group = None
        if names:
            index = {name: i for i, name in enumerate(names)}
            group = np.array([index[str(v)] for v in part[self.client]], dtype=np.int64)
        return Examples(_inputs(part[column], column), y, group)


def _from_disk(folder: str) -> dict[str, Any]:
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(folder)
    except OSError as error:
        raise DataError(f"data.dataset = {folder!r} is no folder of save_to_disk") from error
    return dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}


@contextmanager
def _without_retries() -> Iterator[None]:
    """Use only the hub's cache where its host has no address: it would retry for half a minute."""
    import datasets.config
    import huggingface_hub.constants as hub

    host = urllib.parse.urlsplit(hub.ENDPOINT).hostname
    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        if not urllib.request.getproxies():
            socket.getaddrinfo(host, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _require_column(key: str, name: str, columns: list[str]) -> None:
    if name not in columns:
        accepted = f"a column: {', '.join(columns)}"
        raise ConfigError([Problem(key, name, accepted, suggest(name, columns))])


def _class_names(parts: tuple[Any, Any], label: str) -> tuple[str, ...]:
    """Name the classes: as the data set does, or by their values; none for real numbers."""
    names = getattr(parts[0].features[label], "names", None)
    if names:
        return tuple(names)
    values = [np.asarray(part[label]) for part in parts]
    if values[0].dtype.kind == "f":
        return ()
    if values[0].dtype.kind in "iub":
        return tuple(str(i) for i in range(int(values[0].max()) + 1))
    return tuple(sorted({str(value) for part in values for value in part}))


def _input_column(part: Any, label: str, client: str | None) -> str:
    others: list[str] = [name for name in part.column_names if name not in (label, client)]
    if len(others) == 1:
        return others[0]
    accepted = f"the input column, one of: {', '.join(others)}"
    raise ConfigError([Problem("data.features", None, accepted)])


def _inputs(values: Any, column: str) -> NDArray[np.generic]:
    """Images become bytes [n, channels, height, width], lists of numbers float32 [n, ...]."""
    try:
        rows = [np.asarray(value) for value in values]
        array = np.stack(rows)
    except ValueError as error:
        raise DataError(f"column {column!r} has inputs of different shapes: {error}") from error
    if array.dtype == np.uint8 and array.ndim == 4:
        return array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8 and array.ndim == 3:
        return array[:, None]
    if array.dtype.kind not in "fiub":
        raise DataError(f"column {column!r} holds {array.dtype}, accepted are images and numbers")
    return array.astype(np.float32)
