"""Any CSV or Parquet file: `data.path=patients.csv data.target=outcome`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256, split, standardize
from fedsim.data._table import encode_table
from fedsim.data._types import Dataset, Examples, Kind, Meta, RawTable
from fedsim.errors import ConfigError, DataError, MissingDataError, Problem
from fedsim.registry import suggest

__all__ = ["Table"]

_FEW_CLASSES = 20
_FEWEST = 5  # rows that can be split and dealt out at all


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers are standardized, text is one-hot, by the training part; `test` is split off first.

    `path`: a .csv, .tsv or .parquet file. `target`: the column to predict. `client`: the column
    that names the natural client (`partition.by` sets it); it is not a feature. `task` is read off
    the target when unset: text or at most 20 whole numbers are classes, the rest is regression,
    whose target is standardized too. `missing`: what to do with empty cells; `mean` is the training
    part's (for text the word "missing"), and rows without a target are always refused or dropped.
    `declared`: what all clients have in common, if not read off all rows together (docs/node.md): a
    table, or the file that has it. Each client then scales, encodes and splits its own rows.
    """

    path: str = ""
    target: str = ""
    client: str | None = None
    task: Literal["auto", "classification", "binary", "regression"] = "auto"
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    missing: Literal["refuse", "drop", "mean"] = "refuse"
    declared: Mapping[str, Any] = field(default_factory=dict)

    files: ClassVar = ()
    facts: ClassVar = {"task": "any", "examples": "your own", "licence": "your own"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Read the file. Raises `ConfigError`, `DataError` or `MissingDataError`."""
        return self.frames(data_dir).dataset

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return the rows as they are in the file, but for those left out; no column `client`.

        Raises what `load` raises.
        """
        frame = _read(self.path)
        _require_column("data.target", self.target, frame)
        if self.client is not None:
            _require_column("partition.by", self.client, frame)
        frame = _without_holes(frame, self)
        kind = kind_of_target(frame[self.target]) if self.task == "auto" else self.task
        y, classes = _targets(frame[self.target], kind, self)
        raw = frame.drop(columns=[self.client] if self.client else [])
        frame = frame.assign(**{self.target: y})
        train, test = split(y, self.test, stratify=_can_stratify(y, classes, self.test))
        encoded = encode_table(
            *_filled(frame.iloc[train], frame.iloc[test]),
            target=self.target,
            client=self.client,
            keep_client=False,
        )
        parts = encoded.train, encoded.test
        if kind == "regression":
            parts = _scale_targets(*parts)
        meta = Meta(
            name=Path(self.path).stem,
            kind=kind,
            input_shape=parts[0].x.shape[1:],
            outputs=len(classes) if kind == "classification" else 1,
            sha256=content_sha256(*parts),
            class_names=classes,
            group_names=encoded.group_names,
            source=Path(self.path).name,
            licence="",
        )
        return RawTable(Dataset(meta, *parts), raw.iloc[train], raw.iloc[test], self.target)


def _read(path: str) -> Any:
    import pandas as pd

    file, kind = Path(path), Path(path).suffix.lower()
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    readers[".tsv"] = lambda source: pd.read_csv(source, sep="\t")
    if kind not in readers:
        accepted = "a file that ends in .csv, .tsv or .parquet"
        raise ConfigError([Problem("data.path", path, accepted)])
    if not file.is_file():
        raise MissingDataError(f"data.path = {path!r}: there is no such file")
    try:
        return readers[kind](file)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as {kind[1:]}: {error}") from error


def _require_column(key: str, column: str, frame: Any) -> None:
    if column not in frame.columns:
        accepted = f"a column: {', '.join(map(str, frame.columns))}"
        hint = suggest(column, frame.columns)
        raise ConfigError([Problem(key, column, accepted, hint)])


def _without_holes(frame: Any, part: Table) -> Any:
    """Drop rows as `missing` allows; refuse the other empty cells, and infinite numbers."""
    numbers = frame.select_dtypes("number")
    infinite = np.isinf(numbers.to_numpy(dtype=np.float64, na_value=0.0))
    if infinite.any():
        where = _rows(dict(zip(numbers.columns, infinite.sum(axis=0), strict=True)))
        raise DataError(f"{part.path} has infinite numbers in: {where}")
    if part.missing == "drop":
        frame = frame.dropna().reset_index(drop=True)
    if len(frame) < _FEWEST:
        raise DataError(f"{part.path} has {len(frame)} usable rows, at least {_FEWEST} are needed")
    holes = frame.isna().sum().to_dict()
    if part.missing == "mean":
        holes = {part.target: holes[part.target]}
    if any(holes.values()):
        raise DataError(
            f"{part.path} has empty cells in: {_rows(holes)}. Set data.missing=drop to leave those "
            "rows out, or data.missing=mean to fill features with the column's mean (text: "
            "'missing')"
        )
    return frame


def _rows(counts: dict[str, int]) -> str:
    return ", ".join(f"{column} ({count} rows)" for column, count in counts.items() if count)


def _filled(train: Any, test: Any) -> tuple[Any, Any]:
    """Fill the empty cells that are left with the training part's means, or "missing"."""
    from pandas.api.types import is_numeric_dtype

    holes = [column for column in train if train[column].isna().any() or test[column].isna().any()]
    values = {
        column: train[column].mean() if is_numeric_dtype(train[column]) else "missing"
        for column in holes
    }
    return train.fillna(values), test.fillna(values)


def kind_of_target(target: Any) -> Kind:
    """Return what there is to learn, by what a column holds."""
    from pandas.api.types import is_float_dtype, is_numeric_dtype

    different = target.nunique()
    is_whole = not is_float_dtype(target) or bool((target == target.round()).all())
    if is_numeric_dtype(target) and not (is_whole and different <= _FEW_CLASSES):
        return "regression"
    return "binary" if different == 2 else "classification"


def _targets(column: Any, kind: Kind, part: Table) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return class ids and class names, or numbers and no names."""
    if kind == "regression":
        try:
            return column.to_numpy(dtype=np.float64), ()
        except ValueError as error:
            accepted = f"'classification': {part.target!r} does not hold numbers ({error})"
            raise ConfigError([Problem("data.task", part.task, accepted)]) from error
    text = column.astype(str)
    classes = tuple(sorted(set(text), key=sort_key))
    if len(classes) < 2:
        raise DataError(f"{part.path}: the target {part.target!r} is {classes[0]!r} in every row")
    index = {name: i for i, name in enumerate(classes)}
    return text.map(index).to_numpy(dtype=np.int64), classes


def _can_stratify(y: NDArray[np.generic], classes: tuple[str, ...], test: float) -> bool:
    """Every class must have two examples, and either part as many examples as classes."""
    fewest = len(y) * min(test, 1 - test)
    return bool(classes) and int(np.bincount(y).min()) > 1 and fewest >= len(classes) + 1


def sort_key(text: str) -> tuple[float, str]:
    """Sort classes as numbers where they are numbers."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _scale_targets(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    y_train, y_test = standardize(train.y.astype(np.float64), test.y.astype(np.float64))
    return Examples(train.x, y_train, train.group), Examples(test.x, y_test, test.group)
