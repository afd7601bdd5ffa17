"""What is reported of anonymized clients: what was promised, and what all of them reached."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.client import Released
from fedsim.anonymize.encoding import Encoding
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.report import shown
from fedsim.anonymize.risk import risks
from fedsim.anonymize.schema import Schema
from fedsim.config.schema import Anonymization

__all__ = ["declared", "inputs", "reached"]


def declared(settings: Anonymization, schema: Schema, encoding: Encoding) -> dict[str, Any]:
    """Say what was promised: all that is known where nobody sees what every client reached."""
    names = ("k", "diversity", "l", "c", "t", "t_reference", "delta", "max_suppression")
    return {
        "name": settings.name,
        "cut": settings.cut,
        "over": "federation" if _is_common(settings) else "client",
        "declared": {name: getattr(settings, name) for name in names},
        **inputs(schema, encoding),
    }


def inputs(schema: Schema, encoding: Encoding) -> dict[str, Any]:
    """Say what models see."""
    return {
        "schema": schema.fingerprint(),
        "quasi": list(encoding.quasi),
        "exact": list(encoding.exact),
        "left_out": list(encoding.left_out),
        "inputs": encoding.width,
    }


def reached(
    settings: Anonymization,
    schema: Schema,
    encoding: Encoding,
    released: Sequence[Released],
    recodings: Sequence[Recoding],
) -> dict[str, Any]:
    """Say what all clients reached: the least of them, and no number of people below k."""
    facts = [one.facts for one in released]
    rows, left_out = (sum(getattr(one, key) for one in facts) for key in ("rows", "suppressed"))
    if _is_common(settings):  # a class is all clients' together
        sizes = _common_sizes(recodings)
        least, each = int(sizes.min()), [risks(sizes).to_dict()]
    else:
        least, each = min(one.k for one in facts), [dict(one.risks) for one in facts]
    number = shown(left_out, settings.k)
    return {
        **declared(settings, schema, encoding),
        "clients": len(facts),
        "rows": rows,
        "suppressed": {
            "kept": settings.suppressed == "keep",
            "rows": number,
            "share": None if number is None else number / rows,
        },
        "reached": {
            "k": least,
            "l": _worst(min, [one.l for one in facts]),
            "t": _worst(max, [one.t for one in facts]),
            "delta": _worst(max, [one.delta for one in facts]),
        },
        "risks": {
            "prosecutor": max(one["prosecutor_max"] for one in each),
            "prosecutor_mean": float(np.mean([one["prosecutor_mean"] for one in each])),
            "journalist": max(one["journalist_max"] for one in each),
            "marketer": float(np.mean([one["marketer"] for one in each])),
        },
        "gcp": {
            "mean": float(np.mean([one.gcp for one in facts])),
            "least": min(one.gcp for one in facts),
            "most": max(one.gcp for one in facts),
        },
        "ncp": {name: float(np.mean([one.ncp[name] for one in facts])) for name in encoding.quasi},
    }


def _is_common(settings: Anonymization) -> bool:
    """Say whether a class is all clients' together."""
    return settings.cut == "shared" and settings.k_over == "federation"


def _worst(of: Any, values: Sequence[float | None]) -> float | None:
    """Return the worst of all clients' values; None where one has none."""
    return None if None in values else of(values)


def _common_sizes(recodings: Sequence[Recoding]) -> NDArray[np.int64]:
    """Return how many rows all clients have of each combination of generalized values."""
    totals: dict[Any, int] = {}
    for recoding in recodings:
        names = [
            [
                (values.low[first:last].tobytes(), values.high[first:last].tobytes())
                for first, last in zip(values.offsets[:-1], values.offsets[1:], strict=True)
            ]
            for values in recoding.values
        ]
        for index, size in zip(recoding.index, recoding.sizes, strict=True):
            key = tuple(own[i] for own, i in zip(names, index, strict=True))
            totals[key] = totals.get(key, 0) + int(size)
    return np.array(list(totals.values()), dtype=np.int64)
