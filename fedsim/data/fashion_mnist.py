"""Fashion-MNIST: 70,000 pictures of clothes, 28x28, ten classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedsim.data._cache import Cache
from fedsim.data._features import Features, as_features
from fedsim.data._idx import load_images
from fedsim.data._source import File
from fedsim.data._types import Dataset

__all__ = ["FashionMnist"]

_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """Xiao, Rasul and Vollgraf, 2017; the official split.

    `features`: what models see, the pixels or their scattering (81 x 7 x 7 numbers, no parameters).
    """

    features: Features = "pixels"

    files: ClassVar = (
        File(
            "fashion-mnist/train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            _URL + "train-images-idx3-ubyte.gz",
        ),
        File(
            "fashion-mnist/train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            _URL + "train-labels-idx1-ubyte.gz",
        ),
        File(
            "fashion-mnist/t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            _URL + "t10k-images-idx3-ubyte.gz",
        ),
        File(
            "fashion-mnist/t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            _URL + "t10k-labels-idx1-ubyte.gz",
        ),
    )
    facts: ClassVar = {"task": "classification", "examples": "60,000 + 10,000", "licence": "MIT"}

    def load(self, data_dir: Path | None) -> Dataset:
        """Return images [n, 1, 28, 28] as bytes, labels 0..9."""
        return load_images(
            "fashion-mnist",
            self.files,
            data_dir,
            mean=0.2860,
            std=0.3530,
            class_names=(
                "T-shirt",
                "trouser",
                "pullover",
                "dress",
                "coat",
                "sandal",
                "shirt",
                "sneaker",
                "bag",
                "boot",
            ),
            licence="MIT",
        )

    def featured(self, dealt: Dataset, cache: Cache | None) -> Dataset:
        """Return the images as `features` says."""
        return as_features(dealt, self.features, cache)
