"""Any data set of the Hugging Face hub, by name, through flwr-datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256
from fedsim.data._types import Dataset, Examples, Kind, Meta
from fedsim.errors import ConfigError, DataError, NetworkError, Problem

__all__ = ["Huggingface"]


@dataclass(frozen=True, slots=True)
class Huggingface:
    """`data.name=huggingface data.dataset=ylecun/mnist`, or a folder written by `save_to_disk`.

    `features`: the input column (images or lists of numbers), found by itself when unset; `label`:
    the target column; `client`: the column that names the natural client. Needs a network unless
    the set is in the hub's own cache.
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
        splits = self._fetch()
        for key, name in (("data.train", self.train), ("data.test", self.test)):
            if name not in splits:
                accepted = f"a split: {', '.join(splits)}"
                raise ConfigError([Problem(key, name, accepted)])
        parts = splits[self.train], splits[self.test]
        column = self.features or _input_column(parts[0], self.label, self.client)
        names = self._client_names(parts)
        train, test = (self._examples(part, column, names) for part in parts)
        label = parts[0].features[self.label]
        classes = tuple(getattr(label, "names", ()) or ())
        kind: Kind = "regression" if train.y.dtype.kind == "f" else "classification"
        outputs = len(classes) or (int(train.y.max()) + 1 if kind == "classification" else 1)
        meta = Meta(
            name=self.dataset,
            kind=kind,
            input_shape=train.x.shape[1:],
            outputs=outputs,
            sha256=content_sha256(train, test),
            mean=float(train.x.mean() / 255) if train.x.dtype == np.uint8 else 0.0,
            std=float(train.x.std() / 255) if train.x.dtype == np.uint8 else 1.0,
            class_names=classes or tuple(str(i) for i in range(outputs)),
            group_names=tuple(names),
            source=self.dataset,
        )
        return Dataset(meta, train, test)

    def _fetch(self) -> dict[str, Any]:
        from datasets import load_from_disk

        if Path(self.dataset).is_dir():
            return dict(load_from_disk(self.dataset))
        from flwr_datasets import FederatedDataset
        from flwr_datasets.partitioner import IidPartitioner

        hub = FederatedDataset(
            dataset=self.dataset,
            subset=self.subset,
            partitioners={self.train: IidPartitioner(1)},
        )
        try:
            return {name: hub.load_split(name) for name in (self.train, self.test)}
        except (ConnectionError, OSError, ValueError) as error:
            raise NetworkError(
                f"data.dataset = {self.dataset!r}: the Hugging Face hub did not give it "
                f"({type(error).__name__}: {str(error).splitlines()[0]}). Check the name and the "
                "network, or give the folder of a data set saved with save_to_disk"
            ) from error

    def _client_names(self, parts: tuple[Any, Any]) -> list[str]:
        if self.client is None:
            return []
        return sorted({str(value) for part in parts for value in part[self.client]})

    def _examples(self, part: Any, column: str, names: list[str]) -> Examples:
        y = np.asarray(part[self.label])
        y = y.astype(np.float32) if y.dtype.kind == "f" else y.astype(np.int64)
        group = None
        if names:
            index = {name: i for i, name in enumerate(names)}
            group = np.array([index[str(v)] for v in part[self.client]], dtype=np.int64)
        return Examples(_inputs(part[column], column), y, group)


def _input_column(part: Any, label: str, client: str | None) -> str:
    if label not in part.column_names:
        accepted = f"a column: {', '.join(part.column_names)}"
        raise ConfigError([Problem("data.label", label, accepted)])
    others = [name for name in part.column_names if name not in (label, client)]
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
