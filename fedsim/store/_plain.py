"""Values as the database takes them: plain JSON, plain numbers, text without what it refuses."""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

__all__ = ["finite", "plain", "text"]


def plain(value: Any) -> Any:
    """Make a value JSON-able: NaN and infinity become null, tuples lists, NumPy numbers Python's.

    Raises `TypeError` for anything else.

    >>> plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if type(value) is float:  # most values are, and the checks below are slow
        return value if math.isfinite(value) else None
    if isinstance(value, (dict, Mapping)):
        return {text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return _scalar(value)


def finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinity, which databases do not agree on."""
    return float(value) if math.isfinite(value) else None


def text(value: str) -> str:
    """Replace what a database cannot hold as text: NUL and lone surrogates."""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return finite(float(value))
    if isinstance(value, (PurePath, datetime.date, datetime.time)):
        return text(str(value))
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored as JSON")
