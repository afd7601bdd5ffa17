"""Diabetes progression: 442 patients, 10 measurements, a score one year later (regression)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedsim.data._contents import content_sha256, split, standardize
from fedsim.data._types import Dataset, Examples, Meta, RawTable

__all__ = ["Diabetes"]


@dataclass(frozen=True, slots=True)
class Diabetes:
    """Ships with scikit-learn. 80 % train, 20 % test. Columns and target are standardized.

    An RMSE of 1 is that of always answering the mean; times 77 it is in the score's own units.
    Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.
    """

    target: ClassVar = "progression"
    files: ClassVar = ()
    facts: ClassVar = {"task": "regression", "examples": "442", "licence": "public"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return rows [n, 10] and standardized targets [n]."""
        from sklearn.datasets import load_diabetes

        bunch = load_diabetes(scaled=False)
        chosen, rest = split(bunch.target, 0.2, stratify=False)
        x_train, x_test = standardize(bunch.data[chosen], bunch.data[rest])
        y_train, y_test = standardize(bunch.target[chosen], bunch.target[rest])
        train, test = Examples(x_train, y_train), Examples(x_test, y_test)
        meta = Meta(
            name="diabetes",
            kind="regression",
            input_shape=(10,),
            outputs=1,
            sha256=content_sha256(train, test),
            source="scikit-learn load_diabetes",
            licence="public",
        )
        return Dataset(meta, train, test)

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return the measurements and the score, `progression`, in their own units."""
        from sklearn.datasets import load_diabetes

        bunch = load_diabetes(as_frame=True, scaled=False)
        frame = bunch.data.assign(progression=bunch.target)
        train, test = (
            frame.iloc[rows] for rows in split(bunch.target.to_numpy(), 0.2, stratify=False)
        )
        return RawTable(self.load(data_dir), train, test, "progression")
