"""The cache of prepared data: folders of arrays that every process on a machine shares.

As `.npy` files the arrays are memory-mapped. With storage keys the files are sealed instead, and
opened into memory that processes share just as well (`fedsim.sealing`): nothing readable is on the
disk. A cache has both kinds side by side, under different names; no run uses the other kind.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import SetupError
from fedsim.sealing import (
    SUFFIX,
    Label,
    StorageKeys,
    array_pieces,
    read_array,
    read_sealed,
    write_sealed,
)

__all__ = ["Cache", "Kept", "Rows"]

_PURPOSE = "cache"


@dataclass(frozen=True, slots=True)
class Rows:
    """An array that is written a few rows at a time: it need never be in memory as a whole."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Rows":
        """Return the rows of an array there is."""
        return cls(array.shape, array.dtype, [array])


@dataclass(frozen=True, slots=True)
class Kept:
    """One folder of the cache, there or not."""

    root: Path
    name: str
    keys: StorageKeys | None

    @property
    def path(self) -> Path:
        """Return the folder."""
        return self.root / (f"{self.name}-sealed" if self.keys else self.name)

    @property
    def is_there(self) -> bool:
        """Say if the folder has been written; then it is complete."""
        return self.path.is_dir()

    def write(self, arrays: Mapping[str, Rows], facts: Mapping[str, Any], source: str) -> None:
        """Write the folder; it appears complete or not at all.

        `source`: the hash of the data that the arrays come from. Raise `SetupError` where it cannot
        be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self.root, prefix=".part-"))
        except OSError as error:
            raise SetupError(f"cannot write to {self.root}: {error.strerror}") from error
        try:
            for name, rows in arrays.items():
                pieces = array_pieces(rows.shape, rows.dtype, rows.parts)
                self._write_file(temporary, f"{name}.npy", pieces, source)
            self._write_file(temporary, "facts.json", [json.dumps(facts).encode()], source)
            os.replace(temporary, self.path)  # noqa: PTH105 - Path.replace of a folder reads worse
        except OSError as error:
            # Another process may have finished the same folder first: then all is well.
            if not self.is_there:
                raise SetupError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Say if the folder has an array of that name."""
        return self._file(self.path, f"{name}.npy").exists()

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, read-only, in memory that processes share.

        Raise `SealingError` for a sealed file that was changed.
        """
        path = self._file(self.path, f"{name}.npy")
        if self.keys:
            return read_array(path, self._label(f"{name}.npy"), self.keys)
        # A plain array over the mapped file: numpy.memmap costs microseconds at every slice.
        return np.asarray(np.load(path, mmap_mode="r"))

    def facts(self) -> dict[str, Any]:
        """Return what is kept besides arrays."""
        path = self._file(self.path, "facts.json")
        if self.keys:
            content = read_sealed(path, self._label("facts.json"), self.keys)
        else:
            content = path.read_bytes()
        return dict(json.loads(content))

    def _write_file(self, folder: Path, name: str, pieces: Iterable[Any], source: str) -> None:
        path = self._file(folder, name)
        if self.keys:
            label = self._label(name)
            own = Label(label.purpose, {**label.facts, "data_sha256": source})
            write_sealed(path, pieces, own, self.keys)
            return
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)

    def _file(self, folder: Path, name: str) -> Path:
        return folder / (name + SUFFIX if self.keys else name)

    def _label(self, name: str) -> Label:
        return Label(_PURPOSE, {"folder": self.name, "file": name})


@dataclass(frozen=True, slots=True)
class Cache:
    """Where prepared data are kept; sealed where there are keys."""

    root: Path
    keys: StorageKeys | None = None

    def kept(self, name: str) -> Kept:
        """Return the folder of a name: it must say everything that determines the content."""
        return Kept(self.root, name, self.keys)
