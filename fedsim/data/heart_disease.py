"""Heart disease: 740 patients of four hospitals, 13 measurements; the hospital is the client."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256, standardize
from fedsim.data._source import File, locate
from fedsim.data._types import Dataset, Examples, Meta, RawTable

__all__ = ["HeartDisease"]

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
_NAMES = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"]
_NAMES += ["slope", "ca", "thal"]  # UCI's
_KEPT = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)  # slope, vessels and thal are missing too often
_CATEGORIES = {2: (1, 2, 3, 4), 6: (0, 1, 2)}  # chest pain, ECG at rest: the first is the base


@dataclass(frozen=True, slots=True)
class HeartDisease:
    """Target: any narrowing of a vessel. Prepared as FLamby's Fed-Heart-Disease.

    du Terrail et al., "FLamby", NeurIPS 2022: three columns and then every row with a missing value
    are dropped, two columns are one-hot; each hospital is split (66 % train, stratified where each
    class has over two patients, random state 43) and standardized by its own training part.
    Detrano et al., 1989; UCI.
    """

    target: ClassVar = "disease"
    files: ClassVar = (
        File(
            "heart-disease/processed.cleveland.data",
            "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
            _URL + "processed.cleveland.data",
        ),
        File(
            "heart-disease/processed.hungarian.data",
            "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
            _URL + "processed.hungarian.data",
        ),
        File(
            "heart-disease/processed.switzerland.data",
            "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
            _URL + "processed.switzerland.data",
        ),
        File(
            "heart-disease/processed.va.data",
            "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
            _URL + "processed.va.data",
        ),
    )
    facts: ClassVar = {"task": "binary", "examples": "740", "licence": "CC BY 4.0"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return rows [n, 13]; `group` is the hospital, in the test part too."""
        parts: list[list[NDArray[np.generic]]] = [[], [], [], [], [], []]
        for hospital, path in enumerate(locate("heart-disease", self.files, data_dir)):
            x, y = _read(path)
            train, test = _split(y)
            x_train, x_test = standardize(x[train], x[test])
            groups = np.full(len(y), hospital, dtype=np.int64)
            columns: tuple[NDArray[np.generic], ...] = (
                x_train,
                y[train],
                groups[: len(train)],
                x_test,
                y[test],
                groups[: len(test)],
            )
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
        arrays = [np.concatenate(part) for part in parts]
        train_part, test_part = Examples(*arrays[:3]), Examples(*arrays[3:])
        meta = Meta(
            name="heart-disease",
            kind="binary",
            input_shape=(arrays[0].shape[1],),
            outputs=1,
            sha256=content_sha256(train_part, test_part),
            class_names=("healthy", "ill"),
            group_names=_HOSPITALS,
            source=_URL,
            licence="CC BY 4.0",
        )
        return Dataset(meta, train_part, test_part)

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return the same patients: all 13 columns by UCI's names, and `disease` in words.

        Cells of the three columns that `load` drops may be empty.
        """
        import pandas as pd

        parts: tuple[list[Any], list[Any]] = ([], [])
        for path in locate("heart-disease", self.files, data_dir):
            table = _rows(path)
            frame = pd.DataFrame(table[:, :-1], columns=_NAMES)
            frame["disease"] = np.where(table[:, -1] > 0, "ill", "healthy")
            for part, rows in zip(parts, _split(table[:, -1] > 0), strict=True):
                part.append(frame.iloc[rows])
        train, test = (pd.concat(part, ignore_index=True) for part in parts)
        return RawTable(self.load(data_dir), train, test, "disease")


def _split(y: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the training and the test part."""
    from sklearn.model_selection import train_test_split

    rarest = np.bincount(y, minlength=2).min()
    train, test = train_test_split(
        np.arange(len(y)),
        train_size=0.66,
        test_size=1 - 0.66,
        random_state=43,
        stratify=y if rarest > 2 else None,  # Switzerland has one healthy patient
    )
    return np.asarray(train), np.asarray(test)


def _rows(path: Path) -> NDArray[np.float64]:
    """Return all columns of the patients of whom all kept ones are known."""
    with path.open(newline="") as file:
        table = np.array([[_number(cell) for cell in row] for row in csv.reader(file) if row])
    kept: NDArray[np.float64] = table[~np.isnan(table[:, (*_KEPT, -1)]).any(axis=1)]
    return kept


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table = _rows(path)
    columns = []
    for i in _KEPT:
        values = _CATEGORIES.get(i)
        columns += [table[:, i]] if values is None else [table[:, i] == v for v in values[1:]]
    return np.stack(columns, axis=1).astype(np.float64), (table[:, -1] > 0).astype(np.int64)


def _number(text: str) -> float:
    return float("nan") if text == "?" else float(text)
