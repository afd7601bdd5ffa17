"""Features in place of pixels: computed once per machine, then one copy in memory for all."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.data._cache import Cache, Kept, Rows
from fedsim.data._scattering import channels_of, scattering
from fedsim.data._types import Dataset
from fedsim.errors import SetupError

__all__ = ["Features", "as_features"]

Features = Literal["pixels", "scattering"]

_SCALES, _ANGLES = 2, 8
_FORMAT = 1  # of the numbers; a change leaves old folders unused
_ROWS = 512  # images between two writes


def as_features(images: Dataset, features: Features, cache: Cache | None) -> Dataset:
    """Return a data set of grey images as models are to see it.

    Features are float16: half the memory and half the reading of float32, and an error of 2^-11 of
    each number, where group norm and noise follow. The hash in `meta` stays that of the images:
    what is spent on them as features is spent on them. Raises `SetupError` where the cache cannot
    be written.
    """
    if features == "pixels":
        return images
    if cache is None:
        train, test = (np.concatenate(list(_rows(part.x))) for part in (images.train, images.test))
    else:
        train, test = _kept(images, cache)
    meta = replace(images.meta, input_shape=train.shape[1:], mean=0.0, std=1.0)
    return Dataset(meta, replace(images.train, x=train), replace(images.test, x=test))


def _kept(images: Dataset, cache: Cache) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the features of both parts from the cache, where they are put if they are not there.

    Whoever comes while another process computes them waits for it.
    """
    text = f"{_FORMAT}/{_SCALES}/{_ANGLES}/{images.meta.sha256}"
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    kept = cache.kept(f"{images.meta.name}-scattering-{key}")
    if not kept.is_there:
        try:
            with _alone(kept.path):
                if not kept.is_there:
                    _write(images, kept)
        except OSError as error:
            raise SetupError(f"cannot write {kept.path}: {error.strerror or error}") from error
    return kept.array("train"), kept.array("test")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of when the process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(images: Dataset, kept: Kept) -> None:
    # Rows are written rather than mapped: a full disk is then an error and no dead process.
    rows = {
        name: _features(part.x) for name, part in (("train", images.train), ("test", images.test))
    }
    kept.write(rows, {}, images.meta.sha256)


def _features(images: NDArray[Any]) -> Rows:
    height, width = (side >> _SCALES for side in images.shape[-2:])
    shape = len(images), channels_of(_SCALES, _ANGLES), height, width
    return Rows(shape, np.dtype("<f2"), _rows(images))


def _rows(images: NDArray[Any]) -> Iterator[NDArray[np.float16]]:
    """Yield the features of uint8 images [n, 1, height, width], a few at a time, as float16."""
    for first in range(0, len(images), _ROWS):
        bytes_ = torch.from_numpy(np.array(images[first : first + _ROWS, 0]))
        found = scattering(bytes_.float() / 255, _SCALES, _ANGLES)
        yield found.half().numpy()
