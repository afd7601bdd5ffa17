"""Noise that nobody can predict: ChaCha20 under a secret key, made into normals and integers.

**Law.** Normals come in pairs by the transform of Box and Muller (Annals of Mathematical Statistics
29, 1958): radius sqrt(-2 ln u), angle uniform. The angle has 64 bits, or 32 where float32 is asked
for. u has 63, and where the first 32 are zero it gets 63 more: u has 31 significant bits or more
down to 2^-126, so the tail has neither a hole nor an early end. The largest normal is
sqrt(2 x 127 ln 2) = 13.27, the largest exponential 88.03; what is cut off has probability 2^-127,
so for 10^9 numbers in each of 10^6 releases delta grows by less than (1 + e^epsilon) x 10^-23.

**Floating point.** No law of doubles is the normal law: which doubles x + noise can be tells
x (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012).
So what is released is an integer plus an integer. For an integer S, S + round(sigma N) is
round(S + sigma N): made from the ideal Gaussian mechanism's output without looking at S again, and
therefore exactly as private, with the same noise multiplier, by every accountant. The normal
before it is rounded needs more digits than the integer has, which doubles give for
sigma < 2^37. A larger sigma is drawn in units of 2^shift, and what is below is uniform: S + noise
is then S / 2^shift, rounded up or down by a coin that does not depend on S, plus a rounded normal.
Rounding moves two neighbouring S apart by less than one unit per coordinate, which `integer_scale`
adds to the sensitivity; it is 2^-36 sqrt(dimension) of sigma at most.

What is taken on trust is double arithmetic before rounding: it misplaces the bounds between
integers by 2^-12 of a unit at most, 2^-15 for a typical number, to either side. A sampler without
any floating-point number is `fedsim.privacy.discrete`, a hundred times slower.

The time that a draw takes does not depend on the numbers drawn, but for one number in 2^32.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim import rng
from fedsim.crypto import KeyStream, key_of, random_key

__all__ = [
    "LARGEST_NORMAL",
    "Stream",
    "add_gaussian",
    "add_laplace",
    "integer_gaussian",
    "integer_scale",
]

LARGEST_NORMAL = math.sqrt(2 * 127 * math.log(2))

_FIRST_BLOCK = 2**10  # numbers made at a time: few where a stream is for one client's small model,
_LARGEST_BLOCK = 2**15  # never more than stays in the processor's cache
_DIGITS = 37  # of a scale in units of what is rounded to: leaves a double 12 more for the largest
_LOW_63 = 2**63 - 1
_RARE = 2**31  # below it, 63 bits have too few that are not zero
_RARE_FROM = 32 * math.log(2) - 1e-3  # -ln u is above it then, with what float32 rounds off


class Stream:
    """One stream of random numbers, secret or repeatable; not for two threads at once.

    Normals of either precision, Laplace noise and integers do not disturb each other, and how a
    draw is cut into calls does not matter: two draws of 10 are one of 20. A stream cannot be copied
    or pickled, and a secret one takes a new key in a forked process: the same noise twice would
    cancel out.
    """

    __slots__ = ("_blocks", "_key", "_process", "_words", "is_secret")

    def __init__(self, key: bytes, *, is_secret: bool) -> None:
        """Take `Stream.secret()` or `Stream.seeded(...)` instead."""
        self.is_secret = is_secret
        self._begin(key)

    @classmethod
    def secret(cls) -> "Stream":
        """Return a stream whose key comes from the operating system and is kept nowhere."""
        return cls(random_key(), is_secret=True)

    @classmethod
    def seeded(cls, seed: int, purpose: str, *, round: int = -1, client: int = -1) -> "Stream":
        """Return the stream of a seed: whoever knows the seed can subtract the noise.

        >>> Stream.seeded(1, "noise").integers(3, 10).tolist()
        [2, 1, 6]
        """
        number = rng.derive(seed, purpose, round=round, client=client)
        return cls(key_of(f"fedsim/noise/{number}"), is_secret=False)

    def __reduce__(self) -> str:
        """Refuse to be copied."""
        raise TypeError("a stream of noise cannot be copied or pickled")

    def fill_normals(self, target: Tensor | np.ndarray[Any, Any], scale: float = 1.0) -> None:
        """Overwrite float32 or float64 numbers in the CPU's memory with scale x standard normals.

        Raises `RuntimeError` where the memory is not contiguous.
        """
        flat = _flat(target)
        self._filler("float32" if flat.dtype == torch.float32 else "float64").fill(flat, scale)

    def normals(
        self, count: int, scale: float = 1.0, *, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Return `count` normals of standard deviation `scale`."""
        target = torch.empty(count, dtype=dtype)
        self.fill_normals(target, scale)
        return target

    def laplace(self, count: int, scale: float = 1.0) -> Tensor:
        """Return `count` numbers of density exp(-|x| / scale) / (2 scale): float64."""
        target = torch.empty(count, dtype=torch.float64)
        self._filler("laplace").fill(target, scale)
        return target

    def fill_words(self, target: Tensor) -> None:
        """Overwrite int64 numbers in the CPU's memory, contiguous, with 64 random bits each."""
        self._renew()
        self._words.read_into(_bytes(target))

    def words(self, count: int) -> Tensor:
        """Return `count` times 64 random bits: int64."""
        target = torch.empty(count, dtype=torch.int64)
        self.fill_words(target)
        return target

    def uniform(self, count: int) -> Tensor:
        """Return `count` multiples of 2^-53 in [0, 1): float64."""
        return (self.words(count) & (2**53 - 1)).double().mul_(2.0**-53)

    def coins(self, count: int, probability: float) -> Tensor:
        """Return `count` booleans, each True with `probability` (to 2^-63), on its own.

        Raises `ValueError` for what is no probability.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"{probability} is no probability")
        threshold = round(probability * 2**63)
        if threshold > _LOW_63:
            return torch.ones(count, dtype=torch.bool)
        return (self.words(count) & _LOW_63) < threshold

    def integers(self, count: int, below: int) -> Tensor:
        """Return `count` integers from 0 to `below` - 1, each exactly as likely: int64.

        Raises `ValueError` unless 1 <= `below` <= 2^63.
        """
        if not 1 <= below <= 2**63:
            raise ValueError(f"integers below {below}")
        if below & (below - 1) == 0:
            return self.words(count) & (below - 1)
        limit = 2**63 - 2**63 % below
        drawn = self.words(count) & _LOW_63
        while len(again := (drawn >= limit).nonzero().flatten()):
            drawn[again] = self.words(len(again)) & _LOW_63
        return drawn % below

    def permutation(self, count: int) -> Tensor:
        """Return 0 to `count` - 1 in an order of which each is exactly as likely: int64."""
        while True:
            ordered, order = (self.words(count)).sort()
            if not bool((ordered[1:] == ordered[:-1]).any()):
                return order

    def _begin(self, key: bytes) -> None:
        self._key, self._process = key, os.getpid()
        self._words = KeyStream(key)
        self._blocks: dict[str, _Blocks] = {}

    def _renew(self) -> None:
        """After a fork, parent and child must not draw the same."""
        if self.is_secret and self._process != os.getpid():
            self._begin(random_key())

    def _filler(self, law: str) -> "_Blocks":
        self._renew()
        if law not in self._blocks:
            self._blocks[law] = _Blocks(self._key, _LAWS[law])
        return self._blocks[law]


@dataclass(frozen=True, slots=True)
class _Law:
    """How numbers of a law are made: `fill` overwrites made[0] from `quarters` / 4 words for each.

    `lane`: of the key, for the words; the next one is for the rare numbers that need more.
    """

    lane: int
    dtype: torch.dtype
    quarters: int
    fill: Callable[[Tensor, Tensor, KeyStream], None]


class _Blocks:
    """Numbers of one law, always made by whole blocks, which grow to `_LARGEST_BLOCK`.

    The last bit of a logarithm may depend on where in a vector it is computed; like this, it does
    not depend on how many numbers are asked for at a time. Memory is used again: new memory would
    take longer than what is computed in it.
    """

    __slots__ = ("_at", "_law", "_made", "_rare", "_stream", "_words")

    def __init__(self, key: bytes, law: _Law) -> None:
        self._stream, self._rare = KeyStream(key, law.lane), KeyStream(key, law.lane + 1)
        self._law = law
        self._allocate(_FIRST_BLOCK // 2)

    def fill(self, target: Tensor, scale: float) -> None:
        start, size = 0, len(self._made[0])
        while start < len(target):
            if self._at == size:
                size = self._make()
            count = min(len(target) - start, size - self._at)
            own = self._made[0, self._at : self._at + count]
            torch.mul(own, scale, out=target[start : start + count])
            self._at += count
            start += count

    def _make(self) -> int:
        if self._made.shape[1] < _LARGEST_BLOCK:
            self._allocate(2 * self._made.shape[1])
        self._stream.read_into(_bytes(self._words))
        self._law.fill(self._words, self._made, self._rare)
        self._at = 0
        return self._made.shape[1]

    def _allocate(self, size: int) -> None:
        self._words = torch.empty(size * self._law.quarters // 4, dtype=torch.int64)
        self._made = torch.empty(2, size, dtype=self._law.dtype)
        self._at = size


def _normals(words: Tensor, made: Tensor, rare: KeyStream) -> None:
    """Fill made[0] with standard normals: words for half as many radii, others for angles."""
    half = made.shape[1] // 2
    angles = words[half:]
    if made.dtype == torch.float32:
        angles = angles.view(torch.int32)
    radius, cosine, sine = made[1, :half], made[0, :half], made[0, half:]
    _exponentials(words[:half], radius, rare)
    radius.mul_(2).sqrt_()
    sine.copy_(angles).mul_(math.pi / 2 ** (8 * angles.element_size() - 1))
    torch.cos(sine, out=cosine).mul_(radius)
    sine.sin_().mul_(radius)


def _laplace(words: Tensor, made: Tensor, rare: KeyStream) -> None:
    """Fill made[0] with Laplace noise of scale 1: the bit that exponentials do not use signs."""
    sign = made[1].copy_(words).add_(0.5).sign_()
    _exponentials(words, made[0], rare)
    made[0].mul_(sign)


def _exponentials(words: Tensor, target: Tensor, rare: KeyStream) -> None:
    """Fill `target` with -ln u for u = (63 bits + 1/2) x 2^-63; more bits where 31 are not left."""
    words.bitwise_and_(_LOW_63)
    target.copy_(words).add_(0.5).mul_(2.0**-63).log_().neg_()
    if float(target.max()) < _RARE_FROM:
        return
    for i in (words < _RARE).nonzero().flatten().tolist():
        more = int.from_bytes(rare.read(8), "little") & _LOW_63
        target[i] = -math.log((int(words[i]) * 2**63 + more + 0.5) * 2.0**-126)


_LAWS = {
    "float64": _Law(1, torch.float64, 4, _normals),
    "float32": _Law(3, torch.float32, 3, _normals),
    "laplace": _Law(5, torch.float64, 4, _laplace),
}


def integer_gaussian(scale: float, count: int, stream: Stream) -> Tensor:
    """Return `count` rounded normals of standard deviation `scale`: int64.

    To be added to integers of which neighbours are apart by (scale / noise multiplier) in L2; see
    the module for why the sum is as private as with ideal normals, and `integer_scale`. The
    variance is scale^2 + 1/12. Raises `ValueError` for a scale that is negative, or so large
    (3.4e17) that the largest noise, added to a sum of 62 bits, would not fit into 64.
    """
    if not 0 <= scale * LARGEST_NORMAL <= 2.0**62:
        raise ValueError(
            f"noise of {scale:.6g} steps does not fit into 64 bits beside a sum: the number format "
            "needs fewer fraction bits, that is, a larger bound of coordinates"
        )
    shift = _shift(scale)
    target = torch.empty(count, dtype=torch.int64)
    piece = torch.empty(min(count, _LARGEST_BLOCK), dtype=torch.float64)
    bits = torch.empty(len(piece), dtype=torch.int64)
    for start in range(0, count, _LARGEST_BLOCK):
        own = target[start : start + _LARGEST_BLOCK]
        drawn = piece[: len(own)]
        stream.fill_normals(drawn, scale * 2.0**-shift)
        own.copy_(drawn.round_())
        if shift:
            low = bits[: len(own)]
            stream.fill_words(low)
            low.bitwise_and_(2**shift - 1).sub_(2 ** (shift - 1))
            torch.add(low, own, alpha=2**shift, out=own)
    return target


def integer_scale(
    noise_multiplier: float, sensitivity: float, *, dimension: int, fraction_bits: int
) -> float:
    """Return the scale for `integer_gaussian`, in steps of 2^-fraction_bits, of an exact sum.

    `sensitivity`: L2, of the sum in real numbers. Rounding to steps (`fedsim.exact`) lets one
    client's vector grow by sqrt(dimension) / 2 steps, and two may differ.

    >>> integer_scale(2.0, 1.0, dimension=100, fraction_bits=20) == 2 * (2**20 + 10)
    True
    """
    apart = sensitivity * 2.0**fraction_bits + math.sqrt(dimension)
    if shift := _shift(noise_multiplier * apart * 1.01):
        apart += math.sqrt(dimension) * 2.0**shift
    return noise_multiplier * apart


def add_gaussian(values: Tensor, scale: float, stream: Stream, *, bound: float) -> Tensor:
    """Return `values` + normals of standard deviation `scale`, as integers would be added: float64.

    Both are rounded to multiples of one power of two first, `values` towards zero, so that no norm
    grows; their sum is exact. `bound` is public and holds for the absolute value of every
    coordinate; what is beyond is cut.
    """
    step = _step(scale, bound)
    noise = stream.normals(values.numel(), scale / step).round_().view(values.shape)
    return noise.add_(_on_grid(values, step, bound)).mul_(step)


def add_laplace(values: Tensor, scale: float, stream: Stream, *, bound: float) -> Tensor:
    """Like `add_gaussian`, with noise of density exp(-|x| / scale) / (2 scale)."""
    step = _step(scale, bound)
    noise = stream.laplace(values.numel(), scale / step).round_().view(values.shape)
    return noise.add_(_on_grid(values, step, bound)).mul_(step)


def _on_grid(values: Tensor, step: float, bound: float) -> Tensor:
    return values.double().clamp(-bound, bound).div_(step).trunc_()


def _step(scale: float, bound: float) -> float:
    """Return the power of two that doubles up to `bound` + noise are exact multiples of.

    Raises `ValueError` where there is none fine enough: 14 x scale < 2^-40 x bound.
    """
    if not (scale > 0 and scale > bound * 2.0**-44 and math.isfinite(scale)):
        raise ValueError(f"noise of scale {scale} drowns in the rounding of numbers up to {bound}")
    return float(2.0 ** max(math.frexp(scale)[1] - _DIGITS, math.frexp(bound)[1] - 51))


def _shift(scale: float) -> int:
    """Return how many binary digits of noise of that scale are drawn as bits."""
    return max(0, math.frexp(scale)[1] - _DIGITS)


def _flat(target: Tensor | np.ndarray[Any, Any]) -> Tensor:
    tensor = torch.from_numpy(target) if isinstance(target, np.ndarray) else target
    return tensor.view(-1)


def _bytes(words: Tensor) -> memoryview:
    return words.numpy().data.cast("B")
