"""What every class of a released table must be: k, and what else is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from fedsim.anonymize.hierarchies import Hierarchy
from fedsim.anonymize.models import delta_disclosure, k_anonymity, l_diversity, t_closeness
from fedsim.anonymize.schema import Distance
from fedsim.anonymize.table import Sensitive
from fedsim.errors import ConfigError, Problem
from fedsim.fields import accepted, fields_of, fits

__all__ = ["CELLS_AT_ONCE", "Protection", "Target", "allowed", "allows", "histogram", "targets"]

CELLS_AT_ONCE = 4_000_000  # of histograms by sensitive value that are held together


@dataclass(frozen=True, slots=True)
class Protection:
    """The models that hold for every class of a released table.

    `k`: rows of a class at least. `diversity`: of each sensitive column, with `l` and, for
    recursive (c, l), `c`. `t`: earth mover's distance at most, from the table's distribution or
    from one that is given, such as a federation's. `delta`: of delta-disclosure. `k_map`: people
    of a population that each class fits at least. Raises `ConfigError` with every problem.
    """

    k: Annotated[int, Ge(2)] = 5
    diversity: Literal["none", "distinct", "entropy", "recursive"] = "none"
    l: Annotated[float, Ge(1)] = 2.0  # noqa: E741 - the literature's name
    c: Annotated[float, Gt(0)] = 3.0
    t: Annotated[float, Gt(0), Le(1)] | None = None
    t_reference: Literal["table", "given"] = "table"
    delta: Annotated[float, Gt(0)] | None = None
    k_map: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        problems = [
            Problem(name, getattr(self, name), accepted(kind))
            for name, kind in fields_of(Protection).items()
            if not fits(kind, getattr(self, name))
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def is_about_values(self) -> bool:
        """Say whether sensitive values matter, not only how many rows a class has."""
        return self.diversity != "none" or self.t is not None or self.delta is not None


@dataclass(frozen=True, eq=False)
class Target:
    """A sensitive column as the models see it: the distribution to be near to, and how far is far.

    `reference` float64 [values], of sum 1.
    """

    name: str
    reference: NDArray[np.float64]
    distance: Distance = "equal"
    tree: Hierarchy | None = None


def targets(
    sensitive: Sequence[Sensitive], references: Sequence[NDArray[np.number]] | None = None
) -> tuple[Target, ...]:
    """Return the targets of sensitive columns; `references`: counts or shares given for them."""
    found = []
    for i, column in enumerate(sensitive):
        counts = np.bincount(column.codes, minlength=len(column.values))
        given = counts if references is None else np.asarray(references[i])
        if given.shape != counts.shape or not given.sum() > 0 or (given < 0).any():
            accepts = f"{len(counts)} shares >= 0 that are not all 0"
            raise ConfigError([Problem(f"references.{column.name}", given.tolist(), accepts)])
        found.append(Target(column.name, given / given.sum(), column.distance, column.tree))
    return tuple(found)


def histogram(class_of: NDArray[np.integer], column: Sensitive, classes: int) -> NDArray[np.int64]:
    """Return int64 [classes, values]: how many rows of each class have each value."""
    kept = class_of >= 0
    keys = class_of[kept].astype(np.int64) * len(column.values) + column.codes[kept]
    counts = np.bincount(keys, minlength=classes * len(column.values))
    return counts.reshape(classes, len(column.values)).astype(np.int64)


def allows(
    protection: Protection,
    sizes: NDArray[np.int64],
    counts: Sequence[NDArray[np.int64]],
    of: Sequence[Target],
) -> NDArray[np.bool_]:
    """Say which classes have what the protection asks for, k-map aside.

    `sizes` int64 [classes]; `counts[i]` int64 [classes, values] of the sensitive column `of[i]`.
    """
    fine = k_anonymity.allows(sizes, protection.k)
    if not protection.is_about_values:
        return fine
    for found, target in zip(counts, of, strict=True):
        if protection.diversity != "none":
            kind, c = protection.diversity, protection.c
            fine &= l_diversity.allows(found, protection.l, kind, c)
        if protection.t is not None:
            far = t_closeness.distances(found, target.reference, target.distance, target.tree)
            fine &= t_closeness.allows(far, protection.t)
        if protection.delta is not None:
            told = delta_disclosure.disclosures(found, target.reference)
            fine &= delta_disclosure.allows(told, protection.delta)
    return fine


def allowed(
    protection: Protection,
    class_of: NDArray[np.integer],
    classes: int,
    sensitive: Sequence[Sensitive],
    of: Sequence[Target],
) -> NDArray[np.bool_]:
    """Say which classes of rows have what the protection asks for, k-map aside.

    `class_of` [rows]: -1 for rows in none. `of`: empty where it is about no values.
    """
    sizes = np.bincount(class_of[class_of >= 0], minlength=classes).astype(np.int64)
    if not of:
        return allows(protection, sizes, (), ())
    fine = np.empty(classes, dtype=bool)
    step = max(1, CELLS_AT_ONCE // sum(len(column.values) for column in sensitive))
    for low in range(0, classes, step):
        high = min(low + step, classes)
        at = np.where((class_of >= low) & (class_of < high), class_of - low, -1)
        counts = [histogram(at, column, high - low) for column in sensitive]
        fine[low:high] = allows(protection, sizes[low:high], counts, of)
    return fine
