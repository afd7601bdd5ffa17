"""Small pieces that data sets share: hashing contents, fixed splits, standardizing, checking."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._types import Dataset, Examples, Meta
from fedsim.errors import DataError

__all__ = ["check", "content_sha256", "scaled", "split", "standardize"]

SPLIT_SEED = 20_240_601  # of the fixed test splits: they do not change with a run's seed


def content_sha256(*parts: Examples) -> str:
    """Hash what a data set holds: values, types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.x, part.y, part.group):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def split(
    y: NDArray[np.generic], test: float, *, stratify: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split example indices into (train, test), the same for every run."""
    from sklearn.model_selection import train_test_split

    train, rest = train_test_split(
        np.arange(len(y)),
        test_size=test,
        random_state=SPLIT_SEED % 2**32,
        stratify=y if stratify else None,
    )
    return np.sort(train).astype(np.int64), np.sort(rest).astype(np.int64)


def standardize(
    train: NDArray[np.floating], *others: NDArray[np.floating]
) -> list[NDArray[np.float32]]:
    """Scale columns to mean 0 and deviation 1 of the first array; constant columns become 0."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    return [scaled(array, mean, std) for array in (train, *others)]


def scaled(array: NDArray[np.floating], mean: Any, deviation: Any) -> NDArray[np.float32]:
    """Scale numbers by a mean and a deviation, per column; a deviation of 0 makes them 0."""
    numbers = (array - mean) / np.where(deviation > 0, deviation, 1.0)
    return np.asarray(numbers, dtype=np.float32)


def check(dataset: Dataset) -> None:
    """Raise `DataError` for what cannot be trained on: NaN, infinity, labels out of range."""
    for name, part in (("training", dataset.train), ("test", dataset.test)):
        where = f"data set {dataset.meta.name!r}, {name} part"
        if len(part.x) != len(part.y):
            raise DataError(f"{where}: {len(part.x)} inputs but {len(part.y)} targets")
        _check_finite(where, "input", part.x)
        _check_finite(where, "target", part.y)
        _check_labels(where, dataset.meta, part.y)
        if dataset.meta.vocabulary and len(part.x):
            _check_range(where, "token", part.x, dataset.meta.vocabulary)
    if not len(dataset.train.y):
        raise DataError(f"data set {dataset.meta.name!r} has no training examples")


def _check_finite(where: str, what: str, values: NDArray[np.generic]) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    flat = np.asarray(values).reshape(len(values), -1)
    bad = ~np.isfinite(flat)
    columns: Sequence[int] = np.flatnonzero(bad.any(axis=0)).tolist()
    raise DataError(
        f"{where}: {int(bad.any(axis=1).sum())} rows hold NaN or infinity in {what} column(s) "
        f"{', '.join(map(str, columns[:10]))}; clean them, or for a table set data.missing"
    )


def _check_labels(where: str, meta: Meta, y: NDArray[np.generic]) -> None:
    if meta.kind == "regression" or not len(y):
        return
    classes = 2 if meta.kind == "binary" else meta.outputs
    _check_range(where, "label", y, classes)


def _check_range(where: str, what: str, values: NDArray[np.generic], count: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise DataError(f"{where}: {what}s run from {low} to {high}, accepted are 0 to {count - 1}")
