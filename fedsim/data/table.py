"""Any CSV or Parquet file: `data.path=patients.csv data.target=outcome`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Lt

from fedsim.data._contents import content_sha256, split, standardize
from fedsim.data._table import encode_table
from fedsim.data._types import Dataset, Examples, Kind, Meta
from fedsim.errors import ConfigError, DataError, MissingDataError, Problem

__all__ = ["Table"]

_FEW_CLASSES = 20


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers are standardized, text is one-hot, by the training part; `test` is split off first.

    `path`: a .csv, .tsv or .parquet file. `target`: the column to predict. `client`: the column
    that names the natural client (`partition.by` sets it); it is not a feature. `task` is read off
    the target when unset: text or few whole numbers are classes, the rest is regression.
    `missing`: what to do with empty cells.
    """

    path: str = ""
    target: str = ""
    client: str | None = None
    task: Literal["auto", "classification", "binary", "regression"] = "auto"
    test: Annotated[float, Gt(0), Lt(1)] = 0.2
    missing: Literal["refuse", "drop", "mean"] = "refuse"

    files: ClassVar = ()
    facts: ClassVar = {"task": "any", "examples": "your own", "licence": "your own"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Read the file. Raises `ConfigError`, `DataError` or `MissingDataError`."""
        frame = _fill(_read(self.path), self.missing, self.path)
        if self.target not in frame.columns:
            accepted = f"a column: {', '.join(map(str, frame.columns))}"
            raise ConfigError([Problem("data.target", self.target, accepted)])
        kind = _kind(frame[self.target]) if self.task == "auto" else self.task
        classes: tuple[str, ...] = ()
        if kind != "regression":
            classes = tuple(sorted({str(value) for value in frame[self.target]}, key=_natural))
            index = {name: i for i, name in enumerate(classes)}
            labels = [index[str(value)] for value in frame[self.target]]
            frame[self.target] = np.array(labels, dtype=np.int64)
        labels = frame[self.target].to_numpy()
        smallest = 0 if kind == "regression" else int(np.bincount(labels).min())
        train, test = split(labels, self.test, stratify=smallest > 1)
        encoded = encode_table(
            frame.iloc[train],
            frame.iloc[test],
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
        return Dataset(meta, *parts)


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


def _fill(frame: Any, missing: str, path: str) -> Any:
    holes = frame.isna().sum()
    holes = holes[holes > 0]
    if not len(holes):
        return frame
    if missing == "drop":
        return frame.dropna().reset_index(drop=True)
    if missing == "mean":
        numbers = frame.mean(numeric_only=True)
        return frame.fillna(numbers).fillna("missing")
    where = ", ".join(f"{column} ({count} rows)" for column, count in holes.items())
    raise DataError(
        f"{path} has empty cells in: {where}. Set data.missing=drop to leave those rows out, or "
        "data.missing=mean to fill in the column's mean (text: 'missing')"
    )


def _kind(target: Any) -> Kind:
    from pandas.api.types import is_float_dtype, is_numeric_dtype

    different = target.nunique()
    is_whole = not is_float_dtype(target) or bool((target == target.round()).all())
    if is_numeric_dtype(target) and not (is_whole and different <= _FEW_CLASSES):
        return "regression"
    return "binary" if different == 2 else "classification"


def _natural(text: str) -> tuple[float, str]:
    """Sort classes as numbers where they are numbers."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _scale_targets(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    y_train, y_test = standardize(train.y.astype(np.float64), test.y.astype(np.float64))
    return Examples(train.x, y_train, train.group), Examples(test.x, y_test, test.group)
