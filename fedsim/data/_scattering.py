"""Scattering features: two layers of fixed wavelets, moduli and local means; nothing is learned.

Bruna and Mallat, "Invariant Scattering Convolution Networks", IEEE PAMI 2013, with the Morlet
wavelets, sub-sampling and reflected border of Kymatio 0.3.0 (Andreux et al., JMLR 2020), whose
numbers these are (Kymatio itself does not import beside scipy >= 1.17). As no parameter depends on
the data, features of one image say nothing about another and cost no privacy. Tramer and Boneh,
"Differentially Private Learning Needs Better Features", ICLR 2021, train linear models on them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["channels_of", "scattering"]

_BATCH = 32  # images at a time: what they become on the way stays near to what a core has close by


@dataclass(frozen=True, slots=True)
class _Bank:
    """Filters for images of one size; at resolution r maps have every 2^r-th pixel.

    `wavelets[j][r]` [angles, height, 2 x width] are those of scale j at resolution r, in frequency,
    where they are real; each number twice, for the two parts of what it multiplies, and divided by
    what folding adds up. `means[r]` [pixels, places] takes a map at resolution r to local means.
    """

    wavelets: list[list[Tensor]]
    means: list[Tensor]


def channels_of(scales: int, angles: int) -> int:
    """Return how many features there are of each place.

    >>> channels_of(2, 8)
    81
    """
    return 1 + scales * angles + angles**2 * scales * (scales - 1) // 2


def scattering(images: Tensor, scales: int = 2, angles: int = 8) -> Tensor:
    """Return features float32 [n, channels, height / 2^scales, width / 2^scales] of grey images.

    `images` [n, height, width] float. Channels: the local mean; the first order by (scale, angle);
    the second order by (scale, angle) of both wavelets. Raises `ValueError` where a side is no
    multiple of 2^scales or too short to be reflected.
    """
    sides, step = images.shape[1:], 2**scales
    if any(side % step or side <= step for side in sides):
        raise ValueError(f"sides {tuple(sides)} are not multiples of {step}, above {step}")
    bank = _bank(sides[0], sides[1], scales, angles)
    parts = [_features(batch, bank, step) for batch in torch.split(images.float(), _BATCH)]
    found = torch.cat(parts)
    return found.view(*found.shape[:2], sides[0] // step, sides[1] // step)


def _features(images: Tensor, bank: _Bank, border: int) -> Tensor:
    """Return features [n, channels, places] of a batch."""
    padded = functional.pad(images.unsqueeze(1), (border,) * 4, mode="reflect")
    spectrum, scales = torch.fft.fft2(padded), len(bank.wavelets)
    first, second = [], []
    for j in range(scales):
        outer = _envelopes(spectrum, bank.wavelets[j][0], 2**j)[:, 0]  # [n, angle, height, width]
        first.append(outer.flatten(2) @ bank.means[j])
        if j + 1 == scales:
            break
        again = torch.fft.fft2(outer)
        finer = [
            _envelopes(again, bank.wavelets[k][j], 2 ** (k - j)).flatten(3) @ bank.means[k]
            for k in range(j + 1, scales)
        ]
        second.append(torch.cat(finer, dim=2).flatten(1, 2))
    return torch.cat([padded.flatten(2) @ bank.means[0], *first, *second], dim=1)


def _envelopes(spectrum: Tensor, wavelets: Tensor, step: int) -> Tensor:
    """Return |x * psi| at every `step`-th pixel [n, maps, angles, height / step, width / step].

    `spectrum` [n, maps, height, width] of x. To take every `step`-th pixel is to fold frequencies.
    """
    height, width = spectrum.shape[-2] // step, 2 * spectrum.shape[-1] // step
    pairs = torch.view_as_real(spectrum).flatten(-2).unsqueeze(2)  # real and imaginary by turns
    folded = torch.zeros(())
    for row in range(0, pairs.shape[-2], height):
        for column in range(0, pairs.shape[-1], width):
            own = slice(row, row + height), slice(column, column + width)
            part = pairs[..., own[0], own[1]], wavelets[:, own[0], own[1]]
            folded = folded.addcmul_(*part) if folded.dim() else part[0] * part[1]
    parts = folded.view(*folded.shape[:-1], width // 2, 2)
    found = torch.fft.ifft2(torch.view_as_complex(parts))
    # `abs` of complex numbers takes three times as long.
    squares: Tensor = found.real.square() + found.imag.square()
    return squares.sqrt_()


@lru_cache(maxsize=4)
def _bank(height: int, width: int, scales: int, angles: int) -> _Bank:
    sides = height + 2 ** (scales + 1), width + 2 ** (scales + 1)
    wavelets = []
    for j in range(scales):
        turned = [(angles // 2 - 1 - angle) * math.pi / angles for angle in range(angles)]
        at = 0.8 * 2**j, 0.75 * math.pi / 2**j
        ones = [_morlet(sides, at[0], turn, at[1], 4 / angles) for turn in turned]
        full = torch.fft.fft2(torch.stack(ones)).real
        levels = [_folded(full, r) / 4 ** (j - r) for r in range(j + 1)]
        wavelets.append([level.float().repeat_interleave(2, dim=-1) for level in levels])
    low = torch.fft.fft2(_gabor(sides, 0.8 * 2 ** (scales - 1), 0.0, 0.0, 1.0)).real
    means = [_means(_folded(low, r), 2 ** (scales - r)).float() for r in range(scales)]
    return _Bank(wavelets, means)


def _means(spectrum: Tensor, step: int) -> Tensor:
    """Return the matrix [pixels, places] of a low pass at every `step`-th pixel but the border."""
    height, width = spectrum.shape
    kernel = torch.fft.ifft2(spectrum).real
    rows = (torch.arange(step, height - step, step) - torch.arange(height)[:, None]) % height
    columns = (torch.arange(step, width - step, step) - torch.arange(width)[:, None]) % width
    taps: Tensor = kernel[rows[:, None, :, None], columns[None, :, None, :]]
    return taps.flatten(2).flatten(0, 1)


def _folded(spectrum: Tensor, resolution: int) -> Tensor:
    """Return a filter for maps of lower resolution: frequencies they do not have are dropped."""
    if resolution == 0:
        return spectrum
    height, width = (side >> resolution for side in spectrum.shape[-2:])
    kept = spectrum.clone()
    for axis, size in ((-2, height), (-1, width)):
        side = kept.shape[axis]
        kept.narrow(axis, int(side * 0.5 ** (resolution + 1)), side - size).zero_()
    tiles = kept.reshape(*kept.shape[:-2], -1, height, kept.shape[-1] // width, width)
    return torch.sum(tiles, dim=(-4, -2))


def _morlet(
    sides: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float
) -> Tensor:
    """Return a Gabor filter less its envelope times what makes the mean zero."""
    wave = _gabor(sides, sigma, angle, frequency, slant)
    envelope = _gabor(sides, sigma, angle, 0.0, slant)
    return wave - wave.sum() / envelope.sum() * envelope


def _gabor(
    sides: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float
) -> Tensor:
    """Return a wave under a Gaussian, wrapped around the image: complex128 [height, width]."""
    x, y = (torch.arange(-2 * side, 3 * side, dtype=torch.float64) for side in sides)
    x, y = x[:, None], y[None, :]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    decay = (along**2 + (slant * across) ** 2) / (2 * sigma**2)
    wave = torch.polar(torch.exp(-decay), along * frequency)
    tiles = torch.sum(wave.reshape(5, sides[0], 5, sides[1]), dim=(0, 2))
    return tiles * (slant / (2 * math.pi * sigma**2))
