"""Breast cancer Wisconsin (diagnostic): 569 tumours, 30 measurements, malignant or benign."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedsim.data._contents import content_sha256, split, standardize
from fedsim.data._types import Dataset, Examples, Meta, RawTable

__all__ = ["BreastCancer"]


@dataclass(frozen=True, slots=True)
class BreastCancer:
    """Ships with scikit-learn. 80 % train, 20 % test, stratified; columns standardized.

    Street, Wolberg and Mangasarian, 1993; UCI.
    """

    target: ClassVar = "diagnosis"
    files: ClassVar = ()
    facts: ClassVar = {"task": "binary", "examples": "569", "licence": "CC BY 4.0"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return rows [n, 30]; target 1 is malignant."""
        from sklearn.datasets import load_breast_cancer

        bunch = load_breast_cancer()
        y = (bunch.target == 0).astype(np.int64)  # scikit-learn has 0 for malignant
        chosen, rest = split(y, 0.2, stratify=True)
        x_train, x_test = standardize(bunch.data[chosen], bunch.data[rest])
        train, test = Examples(x_train, y[chosen]), Examples(x_test, y[rest])
        meta = Meta(
            name="breast-cancer",
            kind="binary",
            input_shape=(30,),
            outputs=1,
            sha256=content_sha256(train, test),
            class_names=("benign", "malignant"),
            source="scikit-learn load_breast_cancer",
            licence="CC BY 4.0",
        )
        return Dataset(meta, train, test)

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return the measurements in their own units, and `diagnosis` in words."""
        from sklearn.datasets import load_breast_cancer

        bunch = load_breast_cancer(as_frame=True)
        y = (bunch.target == 0).astype(np.int64)
        frame = bunch.data.assign(diagnosis=y.map(dict(enumerate(("benign", "malignant")))))
        train, test = (frame.iloc[rows] for rows in split(y.to_numpy(), 0.2, stratify=True))
        return RawTable(self.load(data_dir), train, test, "diagnosis")
