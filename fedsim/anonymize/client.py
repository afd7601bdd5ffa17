"""One client's rows made safe to train on: treated, recoded, encoded, and what that came to.

Everything here is a pure function of the rows of one client. What it says of itself (`Facts`) is
what was reached, in measures of whole classes: it names no value, and whoever reports it shows no
number of people below k.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.encoding import Encoding
from fedsim.anonymize.models import delta_disclosure, l_diversity, t_closeness
from fedsim.anonymize.protection import Protection, histogram, targets
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.risk import risks
from fedsim.anonymize.schema import Schema
from fedsim.anonymize.table import Encoded, encode
from fedsim.anonymize.treating import Treater
from fedsim.anonymize.utility import losses

__all__ = ["Facts", "Prepared", "Released", "exact", "prepare", "release"]

Suppressed = Literal["keep", "drop"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A client's rows as codes: `encoded` is what is recoded, `exact` are the other inputs."""

    encoded: Encoded
    exact: Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one client reached. `l` of the declared kind, `t` and `delta` from the declared
    reference; None where nothing was asked for, `delta` also where it is infinite.
    """

    rows: int
    suppressed: int
    k: int
    l: float | None  # noqa: E741 - the literature's name
    t: float | None
    delta: float | None
    gcp: float
    ncp: Mapping[str, float]
    risks: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Released:
    """What is trained on: `features` float32 [kept, width] of the rows `kept`, in their order."""

    features: NDArray[np.float32]
    kept: NDArray[np.int64]
    facts: Facts


def prepare(frame: Any, schema: Schema, encoding: Encoding, seed: int) -> Prepared:
    """Return a client's pandas rows as codes, after the schema's treatments.

    `seed`: of choices that treatments draw. Raises `ConfigError` or `DataError` for rows that are
    not what the schema says.
    """
    frame = _treated(_read(frame, schema.empty), schema, seed)
    return Prepared(encode(frame, schema), encoding.codes(frame, schema, *encoding.exact))


def release(
    rows: Prepared,
    recoding: Recoding,
    encoding: Encoding,
    protection: Protection,
    *,
    suppressed: Suppressed = "drop",
    references: Sequence[NDArray[np.number]] | None = None,
) -> Released:
    """Return the features of recoded rows; those suppressed are left out, or kept as anything.

    `references`: of each sensitive column, where the distribution to be near to is given.
    """
    features = encoding.of_released(recoding, rows.exact)
    facts = _facts(rows.encoded, recoding, protection, references)
    kept = np.arange(len(features), dtype=np.int64)
    if suppressed == "drop":
        kept = np.flatnonzero(recoding.class_of >= 0)
    return Released(features[kept], kept, facts)


def exact(frame: Any, schema: Schema, encoding: Encoding) -> NDArray[np.float32]:
    """Return the features of rows that nothing is done to: those a model is tested on."""
    frame = _read(frame, schema.empty)
    return encoding.of_exact(encoding.codes(frame, schema))


def _facts(
    encoded: Encoded,
    recoding: Recoding,
    protection: Protection,
    references: Sequence[NDArray[np.number]] | None,
) -> Facts:
    lost = losses(encoded, recoding)
    least_l: list[float] = []
    most_t: list[float] = []
    most_delta: list[float] = []
    if protection.is_about_values:
        of = targets(encoded.sensitive, references)
        for column, target in zip(encoded.sensitive, of, strict=True):
            counts = histogram(recoding.class_of, column, recoding.classes)
            if protection.diversity != "none":
                found = l_diversity.diversities(counts, protection.diversity, protection.c)
                least_l.append(float(found.min(initial=np.inf)))
            near = target.reference, target.distance, target.tree
            most_t.append(t_closeness.reached(counts, *near))
            most_delta.append(delta_disclosure.reached(counts, target.reference))
    worst = max(most_delta, default=np.inf)
    return Facts(
        rows=encoded.rows,
        suppressed=recoding.suppressed,
        k=int(recoding.sizes.min(initial=encoded.rows)),
        l=min(least_l, default=None),
        t=max(most_t, default=None),
        delta=float(worst) if np.isfinite(worst) else None,
        gcp=lost["gcp"],
        ncp=lost["ncp"],
        risks=risks(recoding.sizes).to_dict(),
    )


def _read(frame: Any, empty: Sequence[str]) -> Any:
    """Return a frame with its text as schemas are read: in NFC, and cells of `empty` empty."""
    texts = [name for name in frame.columns if frame[name].dtype.kind not in "biufcMm"]
    frame = frame.assign(**{name: frame[name].map(_normal) for name in texts})
    if not empty:
        return frame
    return frame.mask(frame.map(lambda cell: isinstance(cell, str) and cell.strip() in empty))


def _normal(cell: Any) -> Any:
    is_plain = not isinstance(cell, str) or cell.isascii()
    return cell if is_plain else unicodedata.normalize("NFC", cell)


def _treated(frame: Any, schema: Schema, seed: int) -> Any:
    names = [
        name
        for name, column in schema.columns.items()
        if column.treatment is not None and column.role != "direct" and name in frame.columns
    ]
    if not names:
        return frame
    treater = Treater(schema, seed=seed)
    return frame.assign(**{name: treater.apply(name, frame) for name in names})
