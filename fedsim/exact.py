"""Exact sums of client updates in fixed-point integers.

A floating-point sum depends on the order of its terms, so it changes with the number of workers
and with every retry. Here every weighted update is rounded once, on its own, to a multiple of
2^-fraction_bits and held as int64; integer addition is exact, so order and grouping cannot change
a bit. `fixed_point` proves for a whole run that no sum can overflow.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.core import Sum, Update
from fedsim.errors import ConfigError, Problem

__all__ = [
    "FixedPoint",
    "InvalidUpdateError",
    "PartialSum",
    "add",
    "decode",
    "encode",
    "fixed_point",
]

_WORD_BITS = 63  # an int64 without its sign
_LEAST_FRACTION_BITS = 16
_WEIGHT_BITS = 20  # weights are multiples of 2^-20


class InvalidUpdateError(ValueError):
    """An update that must not enter the sum: not finite, too large, or of the wrong shape."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The number format of a run: steps of 2^-fraction_bits, bounds of coordinate and weight."""

    fraction_bits: int
    max_abs: float
    max_weight: float
    dimension: int


@dataclass(frozen=True, slots=True)
class PartialSum:
    """The exact sum of `count` weighted updates: int64 multiples of 2^-fraction_bits."""

    vector: Tensor
    weight: int
    count: int
    lanes: Mapping[str, Tensor] = field(default_factory=dict)


def fixed_point(dimension: int, *, max_abs: float, max_weight: float, cohort: int) -> FixedPoint:
    """Choose the finest steps for which the sum of a whole cohort cannot overflow.

    `max_abs` bounds every coordinate of every update, `max_weight` every client's weight; `encode`
    refuses what is beyond them. A sum is then below 2^62, and the half step that rounding adds to
    each of at most 2^46 / max_weight terms stays within the remaining bit.

    Raises `ConfigError` where fewer than 16 fraction bits would be left.

    >>> fixed_point(10, max_abs=1024.0, max_weight=90, cohort=20).fraction_bits
    41
    """
    total_weight = max(max_weight, 1.0) * cohort
    fraction_bits = _WORD_BITS - 1 - math.ceil(math.log2(max_abs * total_weight))
    if fraction_bits < _LEAST_FRACTION_BITS:
        largest = 2.0 ** (_WORD_BITS - 1 - _LEAST_FRACTION_BITS) / total_weight
        raise ConfigError(
            [
                Problem(
                    "rounds.max_abs_update",
                    max_abs,
                    f"at most {largest:.6g} for a cohort of total weight {total_weight:.6g}, or "
                    "its sums could overflow 64 bits",
                )
            ]
        )
    return FixedPoint(fraction_bits, max_abs, max(max_weight, 1.0), dimension)


def encode(update: Update, form: FixedPoint) -> PartialSum:
    """Round one client's weighted update to the number format: a sum of one.

    Raises `InvalidUpdateError` for NaN, infinity, a coordinate beyond `max_abs`, a wrong shape or
    a weight that is not positive and finite.
    """
    if update.vector.shape != (form.dimension,):
        raise InvalidUpdateError(
            f"update has shape {tuple(update.vector.shape)}, the model has ({form.dimension},)"
        )
    if not 0 < update.weight <= form.max_weight:  # False for NaN too
        raise InvalidUpdateError(
            f"weight {update.weight} is not above 0 and at most {form.max_weight:.6g}, the size of "
            "the largest shard"
        )
    _check_range("update", update.vector, form)
    for name, lane in update.lanes.items():
        _check_range(f"lane {name!r}", lane, form)
    scale = 2.0**form.fraction_bits
    return PartialSum(
        vector=_round(update.vector.double() * (update.weight * scale)),
        weight=round(update.weight * 2**_WEIGHT_BITS),
        count=1,
        lanes={name: _round(lane.double() * scale) for name, lane in update.lanes.items()},
    )


def add(parts: Iterable[PartialSum]) -> PartialSum:
    """Add partial sums of the same model; at least one. The first one's memory is not reused."""
    iterator = iter(parts)
    first = next(iterator)
    vector, weight, count = first.vector.clone(), first.weight, first.count
    lanes = {name: lane.clone() for name, lane in first.lanes.items()}
    for part in iterator:
        vector += part.vector
        weight += part.weight
        count += part.count
        if part.lanes.keys() != lanes.keys():
            raise InvalidUpdateError(f"lanes {sorted(part.lanes)} differ from {sorted(lanes)}")
        for name, lane in part.lanes.items():
            lanes[name] += lane
    return PartialSum(vector, weight, count, lanes)


def decode(total: PartialSum, form: FixedPoint) -> Sum:
    """Return the sum as real numbers (float64)."""
    step = 2.0**-form.fraction_bits
    return Sum(
        vector=total.vector.double() * step,
        weight=total.weight * 2.0**-_WEIGHT_BITS,
        count=total.count,
        lanes={name: lane.double() * step for name, lane in total.lanes.items()},
    )


def _round(values: Tensor) -> Tensor:
    return torch.round(values).to(torch.int64)


def _check_range(what: str, values: Tensor, form: FixedPoint) -> None:
    # One pass: the maximum of |x| is NaN or inf where any x is.
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not math.isfinite(largest):
        raise InvalidUpdateError(f"{what} holds NaN or infinity")
    if largest > form.max_abs:
        raise InvalidUpdateError(
            f"{what} has a coordinate of size {largest:.6g}, beyond rounds.max_abs_update = "
            f"{form.max_abs:.6g}: local training diverged (lower optimizer.lr) or the bound is "
            "too tight"
        )
