"""Trace files: JSON, or pickles of plain values, in which nothing is run that they name."""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import DataError, MissingDataError

__all__ = ["number_of", "read_trace", "sha256_of"]

_PLAIN = {  # what pickles of numbers name beside Python's own plain types
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
}


class _Plain(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and text; refuses whatever else a pickle could make."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what numbers of NumPy are made of, and nothing else."""
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_trace(path: str) -> Mapping[Any, Mapping[str, Any]]:
    """Read a file that has a table for each device, by its key: a JSON object or a pickled dict.

    Raises `MissingDataError` where there is none, `DataError` for anything else.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingDataError(f"there is no trace of devices at {path}")
    content = file.read_bytes()
    try:
        found = (
            json.loads(content) if content[:1] in b"{[ \n" else _Plain(io.BytesIO(content)).load()
        )
    except Exception as error:  # a pickle may raise anything
        raise DataError(
            f"{path} is no trace of devices, JSON or a plain pickle: {error}"
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{path} is no trace of devices: a table for each of them, by its key")
    if strange := [key for key, own in found.items() if not isinstance(own, Mapping)]:
        raise DataError(f"{path} has no table for device {strange[0]!r}")
    return found


def number_of(path: str, key: Any, own: Mapping[str, Any], name: str) -> float:
    """Return a number above 0 of a device's table; raises `DataError` where there is none."""
    try:
        value = float(own[name])
    except (KeyError, TypeError, ValueError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise DataError(f"{path}, device {key!r}: {name} = {own.get(name)!r} is no number above 0")
    return value


def sha256_of(*paths: str | None) -> str:
    """Return the hash of some files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes() if path else b"").digest())
    return digest.hexdigest()
