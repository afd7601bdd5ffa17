"""The vector that a client hands to a secure sum: update, weight, metrics and a count, in a ring.

Everything that differs between clients travels in here and nowhere else. Numbers are integers
modulo 2^bits, in this order: the update in steps of the format (`fedsim.exact`), further vectors
that are summed with it (`Update.lanes`), scalars, and last the number one, whose sum is the count
of clients.

Scalars are wider than the ring: the weight, in multiples of 2^-20, and for each metric the sum of
weight x value with the weight of those who have it. They travel as digits, so small that the
digits of a whole cohort add up without a carry: their sums are put together again afterwards, and
are exact.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim import exact
from fedsim.core import Update
from fedsim.errors import ConfigError, Problem
from fedsim.exact import FixedPoint, PartialSum

__all__ = [
    "Decoded",
    "GarbledSumError",
    "Layout",
    "decode",
    "encode",
    "layout",
    "modulo",
    "pack",
]

_VALUE_BITS = 20  # metrics are multiples of 2^-20
_LARGEST_VALUE = 2.0**20  # a client whose metric is beyond has none
_WEIGHT_BITS = 20  # see `fedsim.exact.weight_of`


class GarbledSumError(ValueError):
    """A sum that no updates can have: `reason` is "count", "range", "weight" or "metrics"."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where in the vectors of one sum of at most `cohort` clients.

    `form` has the ring. `metrics` are the names of metrics that are summed, `lanes` (name, size) of
    further vectors, both in order.
    """

    form: FixedPoint
    cohort: int
    metrics: tuple[str, ...] = ()
    lanes: tuple[tuple[str, int], ...] = ()

    @property
    def bits(self) -> int:
        """Return the width of the ring."""
        bits = self.form.bits
        assert bits is not None
        return bits

    @property
    def digit_bits(self) -> int:
        """Return the width of a digit: `cohort` times the largest is below 2^bits."""
        most: int = (2**self.bits - 1) // self.cohort
        return (most + 1).bit_length() - 1

    @property
    def numbers(self) -> int:
        """Return how many coordinates come before the scalars."""
        return self.form.dimension + sum(size for _, size in self.lanes)

    @property
    def digits(self) -> tuple[int, ...]:
        """Return the digits of each scalar: the weight's, then two for each metric."""
        weight = self.cohort * (exact.weight_of(self.form.max_weight) + 1)
        product = weight * (round(_LARGEST_VALUE * 2**_VALUE_BITS) + 1)
        each = [-(-(most.bit_length() + 1) // self.digit_bits) for most in (weight, product)]
        return (each[0], *(each[1], each[0]) * len(self.metrics))

    @property
    def length(self) -> int:
        """Return the length of a vector."""
        return self.numbers + sum(self.digits) + 1


def layout(
    form: FixedPoint,
    cohort: int,
    metrics: Sequence[str] = (),
    lanes: Mapping[str, int] = {},
) -> Layout:
    """Return a layout; raises `ConfigError` for a cohort that the count cannot hold."""
    made = Layout(form, cohort, tuple(sorted(metrics)), tuple(sorted(lanes.items())))
    if cohort >= 2**made.bits or made.digit_bits < 1:
        accepted = f"at most {2**made.bits - 1} with secure_sum.bits = {made.bits}"
        raise ConfigError([Problem("rounds.cohort", cohort, accepted)])
    return made


def encode(update: Update, own: Layout, stream: np.random.Generator) -> NDArray[np.uint32]:
    """Return one client's vector. Raises `fedsim.exact.InvalidUpdateError` for a bad update.

    A metric that is NaN, infinite or beyond 2^20 is one that this client does not have.
    """
    return pack(exact.encode_in_ring(update, own.form, stream), update, own)


def pack(part: PartialSum, update: Update, own: Layout) -> NDArray[np.uint32]:
    """Return one client's vector of an update that is in whole numbers already."""
    if {name: len(lane.view(-1)) for name, lane in part.lanes.items()} != dict(own.lanes):
        raise exact.InvalidUpdateError(f"lanes {sorted(part.lanes)} are not those of the sum")
    vector = np.empty(own.length, dtype=np.uint32)
    pieces = [part.vector, *(part.lanes[name].view(-1) for name, _ in own.lanes)]
    start = 0
    for piece in pieces:
        vector[start : start + len(piece)] = piece.numpy()  # two's complement: modulo 2^32
        start += len(piece)
    for value, count in zip(_scalars(update, part.weight, own), own.digits, strict=True):
        vector[start : start + count] = _to_digits(value, count, own.digit_bits)
        start += count
    vector[start] = 1
    return modulo(vector, own.bits)


def decode(total: NDArray[np.uint32], own: Layout, clients: int) -> "Decoded":
    """Return what a sum of `clients` vectors says; `total` is modulo 2^bits.

    Raises `GarbledSumError` where it does not say so many clients, or what no such sum can be: then
    some client sent another thing than `encode` gives.
    """
    if total.shape != (own.length,):
        raise GarbledSumError("range", f"{total.shape} numbers where {own.length} were expected")
    total = modulo(total.copy(), own.bits)
    if int(total[-1]) != clients:
        raise GarbledSumError(
            "count", f"the count is {int(total[-1])}, {clients} clients took part"
        )
    numbers = _centred(total[: own.numbers], own.bits)
    most = clients * exact.largest(own.form)
    if numbers.size and max(-int(numbers.min()), int(numbers.max())) > most:
        raise GarbledSumError("range", f"a number is beyond what {clients} updates sum up to")
    weight, *rest = _read_scalars(total, own)
    if not 0 <= weight <= clients * (exact.weight_of(own.form.max_weight) + 1):
        raise GarbledSumError("weight", f"a weight that {clients} clients do not have")
    if any(not 0 <= had <= weight for had in rest[1::2]):
        raise GarbledSumError("metrics", "the clients with a metric weigh more than all")
    sizes = [own.form.dimension, *(size for _, size in own.lanes)]
    vectors = torch.split(torch.from_numpy(numbers), sizes)
    lanes = dict(zip((name for name, _ in own.lanes), vectors[1:], strict=True))
    means = {
        name: product / had / 2**_VALUE_BITS
        for name, product, had in zip(own.metrics, rest[::2], rest[1::2], strict=True)
        if had
    }
    return Decoded(PartialSum(vectors[0], weight, clients, lanes), means)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A sum as `fedsim.exact` has it, and the means of the metrics, weighted as the updates are."""

    total: PartialSum
    metrics: Mapping[str, float]


def modulo(vector: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Reduce numbers modulo 2^bits, in place; return them."""
    if bits < 32:
        vector &= np.uint32(2**bits - 1)
    return vector


def _scalars(update: Update, weight: int, own: Layout) -> Iterator[int]:
    yield weight
    for name in own.metrics:
        value = update.metrics.get(name, math.nan)
        is_had = abs(value) <= _LARGEST_VALUE  # False for NaN too
        yield weight * round(value * 2**_VALUE_BITS) if is_had else 0
        yield weight if is_had else 0


def _to_digits(value: int, count: int, width: int) -> NDArray[np.uint32]:
    """Return the digits of a number modulo 2^(count x width), lowest first."""
    return np.array([value >> (width * i) & (2**width - 1) for i in range(count)], dtype=np.uint32)


def _read_scalars(total: NDArray[np.uint32], own: Layout) -> Iterator[int]:
    """Put the sums of digits together; a scalar is centred, for it may be negative."""
    start = own.numbers
    for count in own.digits:
        sums = total[start : start + count].tolist()
        modulus = 1 << (own.digit_bits * count)
        value = sum(digit << (own.digit_bits * i) for i, digit in enumerate(sums)) % modulus
        yield value - modulus if value >= modulus // 2 else value
        start += count


def _centred(numbers: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    """Return numbers modulo 2^bits as those nearest to zero."""
    wide = numbers.astype(np.int64)
    wide[wide >= 2 ** (bits - 1)] -= 2**bits
    return wide
