"""Heart disease: 740 patients of four hospitals, 13 measurements; the hospital is the client."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256, standardize
from fedsim.data._source import File, locate
from fedsim.data._types import Dataset, Examples, Meta

__all__ = ["HeartDisease"]

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
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
        from sklearn.model_selection import train_test_split

        parts: list[list[NDArray[np.generic]]] = [[], [], [], [], [], []]
        for hospital, path in enumerate(locate("heart-disease", self.files, data_dir)):
            x, y = _read(path)
            rarest = np.bincount(y, minlength=2).min()
            train, test = train_test_split(
                np.arange(len(y)),
                train_size=0.66,
                test_size=1 - 0.66,
                random_state=43,
                stratify=y if rarest > 2 else None,  # Switzerland has one healthy patient
            )
            x_train, x_test = standardize(x[train], x[test])
            groups = np.full(len(y), hospital, dtype=np.int64)
            columns = (
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


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    with path.open(newline="") as file:
        rows = [[_number(row[i]) for i in (*_KEPT, -1)] for row in csv.reader(file) if row]
    table = np.array(rows)
    table = table[~np.isnan(table).any(axis=1)]
    columns = []
    for i in _KEPT:
        values = _CATEGORIES.get(i)
        columns += [table[:, i]] if values is None else [table[:, i] == v for v in values[1:]]
    return np.stack(columns, axis=1).astype(np.float64), (table[:, -1] > 0).astype(np.int64)


def _number(text: str) -> float:
    return float("nan") if text == "?" else float(text)
