"""Documents as MongoDB writes them: extended JSON to plain values, fields by dotted path.

`mongoexport` and `bson.json_util` write what JSON has no type for as objects with a `$` key
(MongoDB Extended JSON v2, canonical and relaxed; https://github.com/mongodb/specifications,
source/extended-json).
"""

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

__all__ = ["fields_of_document", "parse", "value_at"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse(line: bytes | str) -> dict[str, Any]:
    """Return a document's fields. Raises `ValueError` for what is none.

    >>> parse('{"n": {"$numberLong": "7"}, "at": {"$date": "1970-01-02T00:00:00Z"}}')["n"]
    7
    """
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError(f"a document is an object in braces, not {str(document)[:40]!r}")
    return {name: _plain(value) for name, value in document.items()}


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """Return what a dotted path leads to, None where it leads nowhere.

    >>> value_at({"visits": [{"pulse": 71}, {"pulse": 64}]}, "visits.1.pulse")
    64
    >>> value_at({"visits": [{"pulse": 71}, {"pulse": 64}]}, "visits.pulse")
    [71, 64]
    """
    if path in document:  # a field may have a dot in its name
        return document[path]
    return _follow(document, path.split("."))


def fields_of_document(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a document's values with their paths: objects are opened, lists are not."""
    for name, value in document.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from fields_of_document(value, f"{path}.")
        else:
            yield path, value


def _follow(value: Any, steps: list[str]) -> Any:
    if not steps or value is None:
        return value
    first, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return _follow(value.get(first), rest)
    if isinstance(value, list):
        if first.isdigit():
            return _follow(value[int(first)], rest) if int(first) < len(value) else None
        return [_follow(one, steps) for one in value]  # as MongoDB: the field of every element
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    key = next((name for name in value if name in _TYPES), None)
    if key is None:
        return {name: _plain(one) for name, one in value.items()}
    try:
        return _TYPES[key](value[key])
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise ValueError(f"no {key} of extended JSON: {json.dumps(value)[:80]}") from error


def _date(value: Any) -> dt.datetime:
    """Read ISO 8601 (relaxed) or milliseconds since 1970 (canonical)."""
    if isinstance(value, str):
        return dt.datetime.fromisoformat(value)
    milliseconds = int(value["$numberLong"] if isinstance(value, dict) else value)
    return _EPOCH + dt.timedelta(milliseconds=milliseconds)


def _binary(value: Any) -> bytes:
    return base64.b64decode(value["base64"] if isinstance(value, dict) else value, validate=True)


def _decimal(value: Any) -> float:
    number = Decimal(value)
    return float("nan") if number.is_nan() else float(number)


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "$oid": str,
    "$numberInt": int,
    "$numberLong": int,
    "$numberDouble": float,
    "$numberDecimal": _decimal,
    "$date": _date,
    "$binary": _binary,
    "$uuid": str,
    "$symbol": str,
    "$timestamp": lambda value: _EPOCH + dt.timedelta(seconds=value["t"]),
    "$undefined": lambda value: None,
}
