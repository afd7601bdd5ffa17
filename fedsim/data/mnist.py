"""MNIST: 70,000 handwritten digits, 28x28."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedsim.data._cache import Cache
from fedsim.data._features import Features, as_features
from fedsim.data._idx import load_images
from fedsim.data._source import File
from fedsim.data._types import Dataset

__all__ = ["DEVIATION", "MEAN", "Mnist"]

MEAN, DEVIATION = 0.1307, 0.3081  # of pixels in [0, 1]: what models see is standardized by them

_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True, slots=True)
class Mnist:
    """LeCun, Bottou, Bengio and Haffner, 1998; the official split.

    `features`: what models see, the pixels or their scattering (81 x 7 x 7 numbers, no parameters).
    """

    features: Features = "pixels"

    files: ClassVar = (
        File(
            "mnist/train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            _URL + "train-images-idx3-ubyte.gz",
        ),
        File(
            "mnist/train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            _URL + "train-labels-idx1-ubyte.gz",
        ),
        File(
            "mnist/t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            _URL + "t10k-images-idx3-ubyte.gz",
        ),
        File(
            "mnist/t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            _URL + "t10k-labels-idx1-ubyte.gz",
        ),
    )
    facts: ClassVar = {"task": "classification", "examples": "60,000 + 10,000", "licence": "public"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return images [n, 1, 28, 28] as bytes, labels 0..9."""
        return load_images(
            "mnist",
            self.files,
            data_dir,
            mean=MEAN,
            std=DEVIATION,
            class_names=tuple(str(digit) for digit in range(10)),
            licence="public",
        )

    def featured(self, dealt: Dataset, cache: Cache | None) -> Dataset:
        """Return the images as `features` says."""
        return as_features(dealt, self.features, cache)
