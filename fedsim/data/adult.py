"""Adult (census income): 48,842 people, does one earn over 50,000 dollars a year."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedsim.data._contents import content_sha256
from fedsim.data._source import File, locate
from fedsim.data._table import encode_table
from fedsim.data._types import Dataset, Meta, RawTable

__all__ = ["Adult"]

_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]


@dataclass(frozen=True, slots=True)
class Adult:
    """Numbers standardized by the training part, categories one-hot (`?` is one of them).

    `client`: the column that names the natural client, `occupation` by default; it stays a feature.
    Becker and Kohavi, 1996; UCI; the official split. The sampling weight `fnlwgt` is left out.
    """

    client: str = "occupation"

    target: ClassVar = "income"
    files: ClassVar = (
        File(
            "adult/adult.data",
            "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            _URL + "adult.data",
        ),
        File(
            "adult/adult.test",
            "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
            _URL + "adult.test",
        ),
    )
    facts: ClassVar = {"task": "binary", "examples": "32,561 + 16,281", "licence": "CC BY 4.0"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return rows [n, features]; target 1 is over 50,000."""
        return self._encoded(self._read(data_dir))

    def frames(self, data_dir: Path | None) -> RawTable:
        """Return all fifteen columns as they are in the files."""
        train, test = self._read(data_dir)
        return RawTable(self._encoded([train, test]), train, test, "income")

    def _read(self, data_dir: Path | None) -> list[Any]:
        import pandas as pd

        parts = []
        for path, skip in zip(locate("adult", self.files, data_dir), (0, 1), strict=True):
            frame = pd.read_csv(path, names=_COLUMNS, skiprows=skip, skipinitialspace=True)
            frame["income"] = frame["income"].str.rstrip(".")
            parts.append(frame)
        return parts

    def _encoded(self, parts: list[Any]) -> Dataset:
        frames = [
            part.assign(income=part["income"].map({"<=50K": 0, ">50K": 1})).drop(columns="fnlwgt")
            for part in parts
        ]
        encoded = encode_table(*frames, target="income", client=self.client, keep_client=True)
        meta = Meta(
            name="adult",
            kind="binary",
            input_shape=encoded.train.x.shape[1:],
            outputs=1,
            sha256=content_sha256(encoded.train, encoded.test),
            class_names=("<=50K", ">50K"),
            group_names=encoded.group_names,
            source=_URL,
            licence="CC BY 4.0",
        )
        return Dataset(meta, encoded.train, encoded.test)
