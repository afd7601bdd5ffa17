"""Gaussian noise from a seed: quick, the same each time, and so for simulations only.

Few numbers are torch's. Of many, bits of AES-256 in counter mode become normal numbers by the
transform of Box and Muller ("A note on the generation of random normal deviates", Annals of
Mathematical Statistics 1958), each step of it over many numbers at once; sines and cosines are
polynomials. This takes 0.7 of the time of torch's `normal_`, whose Mersenne Twister makes one
number after another; its two dozen calls would cost few numbers more than they save. Who knows the
seed knows the noise: nothing here is private.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.crypto import ctr_stream

__all__ = ["SeededNoise"]

_MANY = 2**18  # numbers of a call that are made by Box and Muller's transform, at least
_PAIRS = 125_000  # made at a time: enough for what calls cost, few enough for the cache
_LEAST = 2.0**-24  # uniform numbers are between it and 1, so that normal ones are below 5.77
# 2 sin(pi t) / t and cos(pi t) as polynomials in t^2, for t from -1/2 to 1/2: Chebyshev fits, off
# by less than 5e-8.
_SINE = torch.tensor([6.28318528, -10.335420167, 5.1001550464, -1.1965825712, 0.1553153206])
_COSINE = torch.tensor([0.9999999532, -4.9347928306, 4.0584113529, -1.3318765681, 0.2196896111])
_MIDDLE, _ONE = torch.tensor(0.5 + _LEAST), torch.tensor(1.0)


class SeededNoise:
    """Streams of standard normal numbers, for few and for many: a call goes on where one ended."""

    def __init__(self, seed: int) -> None:
        """`seed`: from 0 to below 2^256, used for nothing else."""
        self._few = torch.Generator().manual_seed(seed % 2**63)
        self._stream = ctr_stream(seed.to_bytes(32, "big"))
        self._memory: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def add(self, tensors: Sequence[Tensor], scale: float) -> None:
        """Add `scale` x normal numbers to every number of some tensors, in their order.

        The numbers are float32 and made on the CPU, wherever and of what type the tensors are.
        """
        if sum(own.numel() for own in tensors) < _MANY:
            drawn = [torch.empty(own.shape).normal_(generator=self._few) for own in tensors]
            noise = [one.to(own) for one, own in zip(drawn, tensors, strict=True)]
            torch._foreach_add_(list(tensors), noise, alpha=scale)
            return
        drawn = [own if _is_simple(own) else torch.zeros(own.shape) for own in tensors]
        self._add([one.view(-1) for one in drawn], scale)
        for one, own in zip(drawn, tensors, strict=True):
            if one is not own:
                own.add_(one.to(own))

    def _add(self, flat: Sequence[Tensor], scale: float) -> None:
        total = sum(len(own) for own in flat)
        for first in range(0, total, 2 * _PAIRS):
            end = min(first + 2 * _PAIRS, total)
            middle = first + (end - first + 1) // 2
            radii, *directions = self._polar(middle - first)
            for start, stop, other in zip((first, middle), (middle, end), directions, strict=True):
                for own, these in _overlaps(flat, start, stop):
                    own.addcmul_(radii[these], other[these], value=scale)

    def _polar(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return radii of normally distributed points of the plane, and cosines and sines: [count].

        All are in memory that the next call uses again.
        """
        if self._memory is None or len(self._memory[0]) < 2 * count:
            self._memory = torch.empty(2 * count, dtype=torch.int32), torch.empty(5 * count)
        words, numbers = self._memory[0][: 2 * count], self._memory[1][: 5 * count]
        self._stream.read_into(words.numpy().view(np.uint8).data)
        numbers[: 2 * count].copy_(words)
        radii, turns, squares, sines, cosines = numbers.view(5, count).unbind()
        torch.add(_MIDDLE, radii, alpha=2.0**-32, out=radii).log_().mul_(-2.0).sqrt_()
        torch.mul(turns.mul_(2.0**-32), turns, out=squares)
        _polynomial(_SINE, squares, out=sines).mul_(turns)  # twice that of half the angle
        _polynomial(_COSINE, squares, out=cosines)
        torch.mul(sines, cosines, out=turns)
        return radii, torch.addcmul(_ONE, sines, sines, value=-0.5, out=cosines), turns


def _polynomial(coefficients: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Write into `out` the values of a polynomial, its constant first, at every x."""
    *lower, before, last = coefficients.unbind()
    torch.add(before, x, alpha=float(last), out=out)
    for coefficient in reversed(lower):
        torch.addcmul(coefficient, out, x, out=out)
    return out


def _is_simple(own: Tensor) -> bool:
    return own.device.type == "cpu" and own.dtype == torch.float32 and own.is_contiguous()


def _overlaps(flat: Sequence[Tensor], start: int, stop: int) -> Iterator[tuple[Tensor, slice]]:
    """Yield what of tensors laid end to end is between two places, and where that is from there."""
    first = 0
    for own in flat:
        low, high = max(start, first), min(stop, first + len(own))
        if low < high:
            yield own[low - first : high - first], slice(low - start, high - start)
        first += len(own)
