"""The MNIST family: four gzipped IDX files of 28x28 grey images."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data._contents import content_sha256
from fedsim.data._source import File, locate
from fedsim.data._types import Dataset, Examples, Meta
from fedsim.errors import MissingDataError

__all__ = ["load_images", "read_idx"]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes (LeCun's format: type, dimensions, sizes, values).

    Raises `MissingDataError` for anything else.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise MissingDataError(f"{path} is not a gzip file: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise MissingDataError(f"{path} is not an IDX file of bytes")
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load_images(
    name: str,
    files: Sequence[File],
    data_dir: Path | None,
    *,
    mean: float,
    std: float,
    class_names: tuple[str, ...],
    licence: str,
) -> Dataset:
    """Load (train images, train labels, test images, test labels) as a data set."""
    arrays = [read_idx(path) for path in locate(name, files, data_dir)]
    train, test = (Examples(arrays[i][:, None], arrays[i + 1].astype(np.int64)) for i in (0, 2))
    meta = Meta(
        name=name,
        kind="classification",
        input_shape=(1, 28, 28),
        outputs=10,
        sha256=content_sha256(train, test),
        mean=mean,
        std=std,
        class_names=class_names,
        source=files[0].url.rsplit("/", 1)[0],
        licence=licence,
    )
    return Dataset(meta, train, test)
