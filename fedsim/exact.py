"""Exact sums of client updates in fixed-point integers.

A floating-point sum depends on the order of its terms, so it changes with the number of workers
and with every retry. Here every weighted update is rounded once, on its own, to a multiple of
2^-fraction_bits and held as int64; integer addition is exact, so order and grouping cannot change
a bit. `fixed_point` proves for a whole run that no sum can overflow.

Under a secure sum the integers live modulo 2^bits (`ring_form`, which proves the same of that) and
so few steps are left that rounding to the nearest would lose what is small in every client: there
it is stochastic, up or down by chance, so that every sum is right in expectation.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fedsim.core import Sum, Update
from fedsim.errors import ConfigError, Problem

__all__ = [
    "VOTE",
    "FixedPoint",
    "InvalidUpdateError",
    "PartialSum",
    "accumulate",
    "add",
    "add_into",
    "check",
    "check_lanes",
    "check_sum",
    "decode",
    "encode",
    "encode_in_ring",
    "encode_sum",
    "fixed_point",
    "largest",
    "norm_of",
    "ring_form",
    "weight_of",
    "zero",
]

#: The lane of `FixedPoint.has_votes`.
VOTE = "within"

_WORD_BITS = 63  # an int64 without its sign
_LEAST_FRACTION_BITS = 16
_WEIGHT_BITS = 20  # weights are multiples of 2^-20
_PIECE = 2**15  # numbers rounded at a time
_SHIFT = 1.5 * 2.0**52
_SHIFTED = np.float64(_SHIFT).view(np.int64)  # the bits of it, as a number
_LEAST_STEPS = 4  # of the largest weighted coordinate, in a ring
_RINGS = range(8, 33, 4)  # bits


class InvalidUpdateError(ValueError):
    """An update that must not enter the sum: not finite, too large, or of the wrong shape."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The number format of a run: steps of 2^-fraction_bits, bounds of coordinate and weight.

    `max_norm`: where privacy rests on it, no update of a larger L2 norm enters a sum, nor one with
    any lane but, with `has_votes`, a single number of at most 1/2 (`fedsim.privacy.central.votes`).
    `bits`: sums are taken modulo 2^bits, and rounding is stochastic; None: int64 (`fixed_point`).
    """

    fraction_bits: int
    max_abs: float
    max_weight: float
    dimension: int
    max_norm: float | None = None
    has_votes: bool = False
    bits: int | None = None


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


def ring_form(
    dimension: int, *, bits: int, max_abs: float, max_weight: float, cohort: int
) -> FixedPoint:
    """Choose the finest steps for which no sum of a whole cohort leaves half of 2^bits.

    What `encode_in_ring` makes of an update within the bounds is at most `largest` steps, and
    cohort x `largest` < 2^(bits - 1): what a sum of at most `cohort` clients is modulo 2^bits says
    what it is. `fraction_bits` may be negative. Raises `ConfigError` where the largest weighted
    coordinate would be fewer than four steps.

    >>> ring_form(10, bits=32, max_abs=8.0, max_weight=90, cohort=20).fraction_bits
    17
    """
    reach = Fraction(max_abs) * Fraction(max(max_weight, 1.0))
    whole = cohort * reach
    fraction_bits = bits - whole.numerator.bit_length() + whole.denominator.bit_length()
    while cohort * _largest(reach, fraction_bits) >= 2 ** (bits - 1):
        fraction_bits -= 1
        if reach * Fraction(2) ** fraction_bits < _LEAST_STEPS:
            raise _too_coarse(bits, float(reach), cohort)
    return FixedPoint(fraction_bits, max_abs, max(max_weight, 1.0), dimension, bits=bits)


def largest(form: FixedPoint) -> int:
    """Return a bound of every integer that one client adds to a sum in a ring."""
    return _largest(Fraction(form.max_abs) * Fraction(form.max_weight), form.fraction_bits)


def _largest(reach: Fraction, fraction_bits: int) -> int:
    # floor(y + u), u < 1, is at most ceil(y) + 1, in floating point too: see `_add_stochastic`.
    return math.ceil(reach * Fraction(2) ** fraction_bits) + 1


def _too_coarse(bits: int, reach: float, cohort: int) -> ConfigError:
    """Say which ring is wide enough; where none is, how much smaller updates would have to be."""
    needed = cohort * (2 * _LEAST_STEPS + 1)  # steps are powers of two: four may be nearly eight
    fitting = [width for width in _RINGS if 2 ** (width - 1) > needed]
    what = f"{cohort} clients whose weighted updates reach {reach:.6g}"
    if fitting:
        return ConfigError([Problem("secure_sum.bits", bits, f"at least {fitting[0]} for {what}")])
    accepted = f"for {what}: a smaller cohort, no ring of {_RINGS[-1]} bits holds their sum"
    return ConfigError([Problem("rounds.cohort", cohort, accepted)])


def encode_in_ring(update: Update, form: FixedPoint, stream: np.random.Generator) -> PartialSum:
    """Round one client's weighted update by chance to the steps of a ring: a sum of one.

    The expectation is the update itself, whatever the steps; each number is off by less than one.
    Raises what `encode` raises.
    """
    check(update, form)
    total = zero(form, update.lanes)
    scale = 2.0**form.fraction_bits
    _add_stochastic(total.vector, update.vector, update.weight * scale, stream)
    for name in sorted(update.lanes):
        _add_stochastic(total.lanes[name], update.lanes[name], scale, stream)
    return PartialSum(total.vector, weight_of(update.weight), 1, total.lanes)


def encode(update: Update, form: FixedPoint) -> PartialSum:
    """Round one client's weighted update to the number format: a sum of one.

    Raises `InvalidUpdateError` for NaN, infinity, a coordinate beyond `max_abs`, a wrong shape or
    a weight that is not positive and finite.
    """
    return accumulate(None, update, form)


def accumulate(total: PartialSum | None, update: Update, form: FixedPoint) -> PartialSum:
    """Round one client's weighted update and add it to a running sum, whose memory is reused.

    Raises what `encode` raises, with the sum as it was. None stands for the empty sum.
    """
    check(update, form)
    if total is None:
        total = zero(form, update.lanes)
    check_lanes(update.lanes, total.lanes)
    _add_rounded(total.vector, update.vector, update.weight * 2.0**form.fraction_bits)
    for name, lane in update.lanes.items():
        _add_rounded(total.lanes[name], lane, 2.0**form.fraction_bits)
    weight, count = total.weight + weight_of(update.weight), total.count + 1
    return PartialSum(total.vector, weight, count, total.lanes)


def check(update: Update, form: FixedPoint) -> None:
    """Raise `InvalidUpdateError` for an update that must not enter a sum."""
    _check_shape("update", update.vector, form)
    if not 0 < update.weight <= form.max_weight:  # False for NaN too
        raise InvalidUpdateError(
            f"weight {update.weight} is not above 0 and at most {form.max_weight:.6g}, the size of "
            "the largest shard"
        )
    _check_range("update", update.vector, form)
    for name, lane in update.lanes.items():
        _check_range(f"lane {name!r}", lane, form)
    if form.max_norm is not None:
        _check_private(update, form, form.max_norm)


def norm_of(update: Update) -> float:
    """Return the L2 norm of what an update adds to a sum: its vector, weighted."""
    return update.weight * float(torch.linalg.vector_norm(update.vector, dtype=torch.float64))


def check_sum(total: PartialSum, weights: Sequence[float], form: FixedPoint) -> None:
    """Raise `InvalidUpdateError` for a sum that no valid updates of these weights have.

    What it is made of cannot be seen any more; but every bound of one update holds for it as often
    as there are terms, with the rounding of each.
    """
    _check_shape("sum", total.vector, form)
    if any(each.dtype != torch.int64 for each in (total.vector, *total.lanes.values())):
        raise InvalidUpdateError("the sum is not int64")
    if not all(0 < weight <= form.max_weight for weight in weights):
        raise InvalidUpdateError(f"a weight is not above 0 and at most {form.max_weight:.6g}")
    if (total.count, total.weight) != (len(weights), _together(weights)):
        raise InvalidUpdateError("count and weight of the sum are not those of its clients")
    step, count = 2.0**-form.fraction_bits, len(weights)
    for values, most in (
        (total.vector, form.max_weight),
        *((v, 1.0) for v in total.lanes.values()),
    ):
        low, high = (int(v) for v in values.aminmax()) if values.numel() else (0, 0)
        if max(-low, high) * step > count * (most * form.max_abs + step):
            raise InvalidUpdateError(f"a coordinate is beyond what {count} updates sum up to")
    if form.max_norm is not None:
        _check_private_sum(total, form, form.max_norm)


def check_lanes(lanes: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    """Raise `InvalidUpdateError` for lanes that cannot be added to others."""
    shapes, wanted = ({k: tuple(v.shape) for k, v in both.items()} for both in (lanes, others))
    if shapes != wanted:
        raise InvalidUpdateError(f"lanes {shapes} differ from {wanted}")


def encode_sum(
    vector: Tensor,
    weights: Sequence[float],
    form: FixedPoint,
    lanes: Mapping[str, Tensor] = MappingProxyType({}),
) -> PartialSum:
    """Round a sum of weight x update of several clients, float64, and of lanes to the format.

    The clients' updates have been checked to be within `form.max_abs` each, so the sum is within
    what `fixed_point` allows for.
    """
    whole = torch.zeros(form.dimension, dtype=torch.int64)
    _add_rounded(whole, vector, 2.0**form.fraction_bits)
    own = zero(form, lanes).lanes
    for name, lane in lanes.items():
        _add_rounded(own[name], lane, 2.0**form.fraction_bits)
    return PartialSum(whole, _together(weights), len(weights), own)


def zero(form: FixedPoint, lanes: Mapping[str, Tensor] = MappingProxyType({})) -> PartialSum:
    """Return the sum of no updates, with lanes like those given."""
    empty = {name: torch.zeros(lane.shape, dtype=torch.int64) for name, lane in lanes.items()}
    return PartialSum(torch.zeros(form.dimension, dtype=torch.int64), 0, 0, empty)


def add_into(total: PartialSum | None, part: PartialSum) -> PartialSum:
    """Add a part to a running sum, whose memory is reused; None stands for the empty sum."""
    if total is None:
        return part
    check_lanes(part.lanes, total.lanes)
    total.vector.add_(part.vector)
    for name, lane in part.lanes.items():
        total.lanes[name].add_(lane)
    count = total.count + part.count
    return PartialSum(total.vector, total.weight + part.weight, count, total.lanes)


def add(parts: Iterable[PartialSum]) -> PartialSum:
    """Add partial sums of the same model; at least one. None of their memory is reused."""
    iterator = iter(parts)
    first = next(iterator)
    lanes = {name: lane.clone() for name, lane in first.lanes.items()}
    total = PartialSum(first.vector.clone(), first.weight, first.count, lanes)
    for part in iterator:
        total = add_into(total, part)
    return total


def decode(total: PartialSum, form: FixedPoint) -> Sum:
    """Return the sum as real numbers (float64)."""
    step = 2.0**-form.fraction_bits
    return Sum(
        vector=total.vector.double() * step,
        weight=total.weight * 2.0**-_WEIGHT_BITS,
        count=total.count,
        lanes={name: lane.double() * step for name, lane in total.lanes.items()},
    )


def weight_of(weight: float) -> int:
    """Return a weight in the steps that sums of weights are kept in: 2^-20.

    >>> weight_of(1.5) / 2**20
    1.5
    """
    whole: int = round(weight * 2**_WEIGHT_BITS)
    return whole


def _together(weights: Sequence[float]) -> int:
    """Return the sum of `weight_of`; many clients weigh the same."""
    return sum(count * weight_of(weight) for weight, count in Counter(weights).items())


def _add_rounded(total: Tensor, values: Tensor, scale: float) -> None:
    """Add values x scale, rounded (half to even), to int64 numbers in place.

    In pieces that stay in the processor's cache: passes over memory would cost more than their
    arithmetic. Rounding a number of at most 2^51 is adding 1.5 x 2^52, where the last bit of a
    double stands for 1: what it comes to, less that constant, is the integer, bit for bit. Twice as
    fast as a conversion, which most processors do one number at a time.
    """
    flat, target = values.reshape(-1), total.view(-1)
    is_float = flat.dtype in (torch.float32, torch.float64)
    if is_float and _largest_size(flat) * scale <= 2.0**51:  # not so for NaN
        _add_shifted(target.numpy(), flat.numpy(), scale)
        return
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE].to(torch.float64, copy=True).mul_(scale).round_()
        target[start : start + _PIECE] += piece.to(torch.int64)


def _add_shifted(target: np.ndarray, values: np.ndarray, scale: float) -> None:
    """Do what `_add_rounded` does, for |values| x scale of at most 2^51."""
    scratch = np.empty(min(len(values), _PIECE))
    for start in range(0, len(values), _PIECE):
        own = values[start : start + _PIECE]
        piece = scratch[: len(own)]
        np.multiply(own, scale, out=piece, dtype=np.float64)
        piece += _SHIFT
        whole = piece.view(np.int64)
        whole -= _SHIFTED
        target[start : start + _PIECE] += whole


def _add_stochastic(
    total: Tensor, values: Tensor, scale: float, stream: np.random.Generator
) -> None:
    """Add floor(values x scale + u), u uniform in [0, 1), to int64 numbers in place.

    Floating point is monotone: with |value| x scale at most an integer m, the sum with u is at most
    m + 1 after rounding, and not below -m.
    """
    flat, target = values.reshape(-1), total.view(-1)
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE].to(torch.float64, copy=True).mul_(scale)
        piece.add_(torch.from_numpy(stream.random(len(piece)))).floor_()
        target[start : start + _PIECE] += piece.to(torch.int64)


def _check_shape(what: str, vector: Tensor, form: FixedPoint) -> None:
    if vector.shape != (form.dimension,):
        raise InvalidUpdateError(
            f"{what} has shape {tuple(vector.shape)}, the model has ({form.dimension},)"
        )


def _check_lane_names(lanes: Mapping[str, Tensor], form: FixedPoint) -> None:
    shapes = {name: tuple(lane.shape) for name, lane in lanes.items()}
    if shapes != ({VOTE: (1,)} if form.has_votes else {}):
        raise InvalidUpdateError(f"lanes {shapes} are not bounded: none but a vote is allowed")


def _check_private_sum(total: PartialSum, form: FixedPoint, most: float) -> None:
    _check_lane_names(total.lanes, form)
    step, count = 2.0**-form.fraction_bits, total.count
    norm = step * float(torch.linalg.vector_norm(total.vector.double()))
    room = form.max_weight * most * (1 + 2.0**-40) + step * math.sqrt(form.dimension)
    if norm > count * room:
        raise InvalidUpdateError(f"L2 norm {norm:.9g}, beyond what {count} updates sum up to")
    if form.has_votes and abs(int(total.lanes[VOTE])) * step > count * (0.5 + step):
        raise InvalidUpdateError(f"votes beyond what {count} updates sum up to")


def _check_private(update: Update, form: FixedPoint, most: float) -> None:
    _check_lane_names(update.lanes, form)
    if form.has_votes and not float(update.lanes[VOTE].abs()) <= 0.5:
        raise InvalidUpdateError(f"a vote of {float(update.lanes[VOTE]):.6g} is not within 1/2")
    norm = float(torch.linalg.vector_norm(update.vector, dtype=torch.float64))
    if not norm <= most:
        raise InvalidUpdateError(f"update has L2 norm {norm:.9g}, clipped ones at most {most:.9g}")


def _largest_size(values: Tensor) -> float:
    """Return the maximum of |x|, in one pass: NaN or inf where any x is."""
    return float(torch.stack(values.aminmax()).abs().max()) if values.numel() else 0.0


def _check_range(what: str, values: Tensor, form: FixedPoint) -> None:
    if not values.is_floating_point():
        raise InvalidUpdateError(f"{what} is of type {values.dtype}, not of real numbers")
    largest = _largest_size(values)
    if not math.isfinite(largest):
        raise InvalidUpdateError(f"{what} holds NaN or infinity")
    if largest > form.max_abs:
        raise InvalidUpdateError(
            f"{what} has a coordinate of size {largest:.6g}, beyond rounds.max_abs_update = "
            f"{form.max_abs:.6g}: local training diverged (lower optimizer.lr) or the bound is "
            "too tight"
        )
