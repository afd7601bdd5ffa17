"""From blocks of rows to what a model sees, by facts that are known beforehand.

Scales, categories and classes are found once, over all clients' training rows (`_survey.py`); with
them every client encodes its own rows and no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import scaled
from fedsim.data._rows import Block, is_number, is_text, length, text_of
from fedsim.data._table import one_hot
from fedsim.data._types import Examples, Kind
from fedsim.errors import DataError

__all__ = ["FILLED", "Encoding", "Feature"]

FILLED = "missing"  # the category of an empty cell of text, as in `table`


@dataclass(frozen=True, slots=True)
class Feature:
    """A column, and how it becomes numbers.

    numbers: (x - `mean`) / `deviation`, empty cells are 0. text: one-hot over `values`. images:
    bytes of one `shape`, with the `mean` and `deviation` of x / 255. arrays: as they are.
    """

    name: str
    kind: Literal["numbers", "text", "images", "arrays"]
    mean: float = 0.0
    deviation: float = 1.0
    values: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Return how many numbers it is to a model."""
        if self.kind == "text":
            return len(self.values)
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Encoding:
    """How rows become examples: a single column of arrays keeps its shape, others stand in a row.

    `shape`: what to make of that single column. `mean` and `deviation` are a regression target's.
    """

    features: tuple[Feature, ...]
    target: str
    kind: Kind
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    shape: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Encoding":
        """Return what `dataclasses.asdict` was taken of, also from JSON."""
        lists = ("values", "shape")
        features = tuple(
            Feature(**one | {key: tuple(one[key]) for key in lists}) for one in content["features"]
        )
        own = {key: tuple(content[key]) for key in ("classes", "shape")}
        return cls(**{**content, **own, "features": features})

    @property
    def single(self) -> Feature | None:
        """Return the one column of arrays or images that is all of the input, if it is so."""
        if len(self.features) == 1 and self.features[0].kind in ("images", "arrays"):
            return self.features[0]
        return None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input."""
        if self.single:
            return self.shape or self.single.shape
        return (sum(feature.width for feature in self.features),)

    @property
    def pixels(self) -> tuple[float, float]:
        """Return mean and deviation of images that are fed as bytes, else 0 and 1."""
        single = self.single
        if single and single.kind == "images":
            return single.mean, single.deviation or 1.0
        return 0.0, 1.0

    def examples(self, block: Block) -> Examples:
        """Encode rows. Raises `DataError` where they are not as the facts say."""
        return Examples(self._inputs(block), self._targets(block))

    def _inputs(self, block: Block) -> NDArray[Any]:
        if self.single:
            column = _of_kind(self.single, block)
            return column.reshape(len(column), *self.input_shape)
        parts = [_encoded(feature, _of_kind(feature, block)) for feature in self.features]
        return np.concatenate(parts, axis=1)

    def _targets(self, block: Block) -> NDArray[Any]:
        column = block[self.target]
        if self.kind == "regression":
            return scaled(column.astype(np.float64), self.mean, self.deviation)
        place = {name: i for i, name in enumerate(self.classes)}
        try:
            return np.array([place[text] for text in text_of(column)], dtype=np.int64)
        except KeyError as error:
            raise DataError(f"target {self.target!r} has a new class {error.args[0]!r}") from error


def _of_kind(feature: Feature, block: Block) -> NDArray[Any]:
    """Return a feature's column; one that is all empty here is of any kind."""
    column = block[feature.name]
    fits = {
        "numbers": is_number(column),
        "text": is_text(column),
        "images": column.shape[1:] == feature.shape and column.dtype == np.uint8,
        "arrays": column.shape[1:] == feature.shape and column.dtype == np.float32,
    }[feature.kind]
    if fits:
        return column
    if feature.kind in ("numbers", "text") and _all_empty(column):
        fill = np.nan if feature.kind == "numbers" else None
        return np.full(length(block), fill, dtype=np.float64 if fill is not None else object)
    raise DataError(f"column {feature.name!r} no longer holds {feature.kind}: the data changed")


def _all_empty(column: NDArray[Any]) -> bool:
    if is_number(column):
        return bool(np.isnan(column).all())
    return is_text(column) and all(value is None for value in column)


def _encoded(feature: Feature, column: NDArray[Any]) -> NDArray[np.float32]:
    if feature.kind == "numbers":
        return np.nan_to_num(scaled(column[:, None], feature.mean, np.float64(feature.deviation)))
    if feature.kind == "text":
        filled = [FILLED if value is None else value for value in column]
        return one_hot(filled, feature.values)
    flat = column.reshape(len(column), -1)
    if feature.kind == "images":
        return scaled(flat / 255.0, feature.mean, np.float64(feature.deviation))
    return flat.astype(np.float32)
