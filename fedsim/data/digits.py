"""Handwritten digits of scikit-learn: 1,797 grey 8x8 images, ten classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedsim.data._contents import content_sha256, split
from fedsim.data._types import Dataset, Examples, Meta

__all__ = ["Digits"]


@dataclass(frozen=True, slots=True)
class Digits:
    """Ships with scikit-learn: nothing to download. 80 % train, 20 % test, stratified.

    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI 1998 (its test part).
    """

    files: ClassVar = ()
    facts: ClassVar = {"task": "classification", "examples": "1,797", "licence": "CC BY 4.0"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return images [n, 1, 8, 8], pixels 0..16 scaled to 0..1 and standardized."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = (bunch.images[:, None].astype(np.float32) / 16 - 0.305) / 0.376
        y = bunch.target.astype(np.int64)
        chosen, rest = split(y, 0.2, stratify=True)
        train, test = Examples(x[chosen], y[chosen]), Examples(x[rest], y[rest])
        meta = Meta(
            name="digits",
            kind="classification",
            input_shape=(1, 8, 8),
            outputs=10,
            sha256=content_sha256(train, test),
            class_names=tuple(str(digit) for digit in range(10)),
            source="scikit-learn load_digits",
            licence="CC BY 4.0",
        )
        return Dataset(meta, train, test)
