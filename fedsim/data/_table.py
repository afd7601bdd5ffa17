"""Tables of numbers and categories as features: standardized and one-hot, by the training part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import standardize
from fedsim.data._types import Examples
from fedsim.errors import ConfigError, DataError, Problem
from fedsim.registry import suggest

__all__ = ["MOST_CATEGORIES", "EncodedTable", "encode_table", "one_hot", "too_many_categories"]

MOST_CATEGORIES = 1000  # of one column


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """A table's two parts as arrays, and the names of its natural clients."""

    train: Examples
    test: Examples
    group_names: tuple[str, ...]
    feature_names: tuple[str, ...]


def encode_table(
    train: Any, test: Any, *, target: str, client: str | None, keep_client: bool
) -> EncodedTable:
    """Encode two pandas frames of the same columns; `target` is taken as it is.

    Categories and scales are those of the training part; a category that only the test part has is
    all zeros. Raises `ConfigError` for a column that is not there.
    """
    for key, column in (("data.target", target), ("partition.by", client)):
        if column is not None and column not in train.columns:
            hint = suggest(column, train.columns)
            accepted = f"a column: {', '.join(map(str, train.columns))}"
            raise ConfigError([Problem(key, column, accepted, hint)])
    left_out = {target} | (set() if keep_client or client is None else {client})
    features = [column for column in train.columns if column not in left_out]
    if not features:
        raise DataError(f"there is no column to learn from beside {', '.join(sorted(left_out))}")
    x_train, x_test, names = _features(train, test, features)
    group_names: tuple[str, ...] = ()
    groups: list[NDArray[np.int64] | None] = [None, None]
    if client is not None:
        values = sorted({str(value) for value in train[client]} | {str(v) for v in test[client]})
        index = {value: i for i, value in enumerate(values)}
        groups = [
            np.array([index[str(value)] for value in frame[client]], dtype=np.int64)
            for frame in (train, test)
        ]
        group_names = tuple(values)
    return EncodedTable(
        Examples(x_train, train[target].to_numpy(), groups[0]),
        Examples(x_test, test[target].to_numpy(), groups[1]),
        group_names,
        names,
    )


def _features(
    train: Any, test: Any, columns: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...]]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    parts: list[list[NDArray[np.float32]]] = [[], []]
    names: list[str] = []
    for column in columns:
        if is_numeric_dtype(train[column]) and not is_bool_dtype(train[column]):
            pair = [frame[column].to_numpy(dtype=np.float64)[:, None] for frame in (train, test)]
            encoded = standardize(*pair)
            names.append(column)
        else:
            values = sorted({str(value) for value in train[column]})
            if len(values) > MOST_CATEGORIES:
                raise too_many_categories(column)
            encoded = [one_hot(frame[column].astype(str), values) for frame in (train, test)]
            names += [f"{column}={value}" for value in values]
        for part, block in zip(parts, encoded, strict=True):
            part.append(block)
    x_train, x_test = (np.concatenate(part, axis=1) for part in parts)
    return x_train, x_test, tuple(names)


def too_many_categories(column: str) -> ConfigError:
    """Return what to raise for a column of text that is no category."""
    accepted = f"a column of at most {MOST_CATEGORIES} categories; drop it or bin it"
    return ConfigError([Problem("data", column, accepted)])


def one_hot(text: Any, values: Sequence[str]) -> NDArray[np.float32]:
    """Return [n, values] with a 1 where a row has the value; another value is all zeros."""
    rows = np.asarray(text, dtype=object).astype(str)
    hot: NDArray[np.float32] = (rows[:, None] == np.array(values)[None, :]).astype(np.float32)
    return hot
