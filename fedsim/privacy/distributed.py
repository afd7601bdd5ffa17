"""Distributed privacy: each client adds a part of the noise before its update enters a secure sum.

The server that opens the sum sees enough noise in it, and nothing else; nobody is trusted to add
any. Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated learning
with secure aggregation", ICML 2021 (sums of discrete Gaussians), and Agarwal, Kairouz and Liu, "The
Skellam mechanism for differentially private federated learning", NeurIPS 2021. What a client does:
clip, rotate, scale, round at random with a bounded norm, add noise, reduce modulo 2^bits; what the
server does to the sum: centre, scale back, rotate back.

How much noise a client adds follows from how many are counted on, `shares`: the noises of so many
together have the standard deviation noise multiplier x clipping norm. Those are the fewest
survivors with which a sum is opened, less the clients that may collude with the server and know
their own noise.

Where chance decides who is asked (`is_completed`), the cohort's size must not be told by the noise:
amplification by sampling rests on nobody knowing who took part. There the server adds the noise of
those missing from the largest cohort, and `shares` are all of that, less colluders. What is
released then always has the same noise. Against the server itself there is less of it, and no
amplification: `against_server`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from fedsim.privacy import rotation
from fedsim.privacy.discrete_table import discrete_gaussian_from_table
from fedsim.privacy.events import Discrete, Lattice, Release, Sampling
from fedsim.privacy.noise import Stream
from fedsim.privacy.rounding import at_random
from fedsim.privacy.skellam import quantized, skellam

__all__ = ["DEVIATIONS", "Distributed", "TooFewSurvivorsError", "centred", "scale_for"]

#: Standard deviations of a sum's coordinate that must fit into half the ring: a coordinate of even
#: the worst sum, all updates alike, wraps around with a probability of 2e-9.
DEVIATIONS = 6.0

_FINE = 1e-4  # of the squared sensitivity: what rounding adds to it need not be less
_MOST_STEPS = 2.0**14  # of a client's standard deviation: its law is in a table
_LEAST_VARIANCE = 1 / 16
_SIGMA_STEP = 2**10


class TooFewSurvivorsError(ValueError):
    """A sum with less noise in it than was counted on: it must not be opened, has no epsilon."""


def scale_for(
    *, noise_multiplier: float, dimension: int, bits: int, most: int, shares: int
) -> float:
    """Return how many steps there are to a clipping norm: as many as the ring holds.

    Kairouz et al. 2021, section 4.4: sqrt(2^(2b) - n k^2) / (2 k sqrt(n^2 / d + n sigma^2)) for n =
    `most` clients, all of whose updates may be alike, and clients' noise of standard deviation
    sigma, in clipping norms, in the rotated `dimension` d. Not finer than is of use: rounding then
    adds d / 4 + 1 x scale to the square of the scale, and that is a ten-thousandth; nor than that a
    client's noise is 2^14 steps. Raises `ValueError` for a ring that has no room for rounding.
    """
    room = 4.0**bits - most * DEVIATIONS**2
    if room <= 0:
        raise ValueError(f"{bits} bits have no room for the sum of {most} clients: take more")
    local = noise_multiplier / math.sqrt(shares)
    spread = math.sqrt(most**2 / dimension + most * local**2)
    enough = max(math.sqrt(dimension / 4 / _FINE), 1 / _FINE)
    return min(math.sqrt(room) / (2 * DEVIATIONS * spread), enough, _MOST_STEPS / local)


def centred(total: Tensor, bits: int) -> Tensor:
    """Return integers modulo 2^bits as those nearest to zero: int64.

    >>> centred(torch.tensor([255, 128, 127, -1, 300]), 8).tolist()
    [-1, -128, 127, -1, 44]
    """
    half = 2 ** (bits - 1)
    shifted: Tensor = (total.to(torch.int64) + half).remainder(2**bits)
    return shifted.sub(half)


@dataclass(frozen=True, slots=True)
class Distributed:
    """How the updates of a round are noised, by whom, and what that comes to.

    `noise_multiplier`: standard deviation of the noise of `shares` clients / `clipping_norm`.
    `dimension`: of the model. `most`: clients in a sum, at most; `least`: survivors without whom it
    is not opened. `colluders`: how many of them may tell the server their noise. `is_completed`:
    whether the server adds the noise of those who are missing from `most`. Raises `ValueError` for
    a ring that is too small, or colluders that leave nobody.
    """

    mechanism: Discrete
    noise_multiplier: float
    clipping_norm: float
    dimension: int
    bits: int
    most: int
    least: int
    colluders: int = 0
    is_completed: bool = False

    def __post_init__(self) -> None:
        """Check that there is somebody to add noise, and room for it."""
        if not 1 <= self.least <= self.most:
            raise ValueError(f"{self.least} survivors of {self.most} clients")
        if self.colluders < 0 or self.shares < 1:
            raise ValueError(f"{self.colluders} colluders leave no client whose noise is secret")
        if not (self.scale >= 1 and self.local_variance >= _LEAST_VARIANCE):
            raise ValueError(
                f"{self.bits} bits are too few for the sums of {self.most} clients: a clipping norm"
                f" would be {self.scale:.3g} steps, a client's noise {self.local_variance**0.5:.3g}"
            )

    @property
    def shares(self) -> int:
        """How many clients' noises make up the noise multiplier."""
        return (self.most if self.is_completed else self.least) - self.colluders

    @property
    def width(self) -> int:
        """How many integers a client sends."""
        return rotation.padded(self.dimension)

    @property
    def scale(self) -> float:
        """How many steps there are to a clipping norm."""
        return scale_for(
            noise_multiplier=self.noise_multiplier,
            dimension=self.width,
            bits=self.bits,
            most=self.most,
            shares=self.shares,
        )

    @property
    def local_variance(self) -> float:
        """The variance of one client's noise, in steps."""
        return (self.noise_multiplier * self.scale) ** 2 / self.shares

    def release(self, sampling: Sampling, count: int = 1) -> Release:
        """Return what a round releases, whoever of `least` survivors or more there are."""
        lattice = Lattice(self.scale, self.width, self.shares)
        return Release(self.mechanism, self.noise_multiplier, sampling, count, lattice=lattice)

    def against_server(self, survivors: int) -> Release:
        """Return what a round tells a server that keeps to the protocol, of `survivors` clients.

        It knows who took part, and takes its own noise and the colluders' off again. Raises
        `TooFewSurvivorsError` where there are fewer than were counted on.
        """
        self.need(survivors)
        honest = survivors - self.colluders
        if honest < 1:
            raise TooFewSurvivorsError(f"{survivors} survivors, {self.colluders} may collude")
        multiplier = self.noise_multiplier * math.sqrt(honest / self.shares)
        lattice = Lattice(self.scale, self.width, honest)
        return Release(self.mechanism, multiplier, lattice=lattice)

    def need(self, survivors: int) -> None:
        """Raise `TooFewSurvivorsError` for a sum that must not be opened."""
        if survivors < self.least:
            raise TooFewSurvivorsError(
                f"{survivors} clients are in the sum, and the noise is calibrated to {self.least}: "
                "no epsilon holds for it"
            )

    def noise(self, count: int, stream: Stream) -> Tensor:
        """Return one client's noise: int64, `count` numbers. Never less than `local_variance`."""
        if self.mechanism == "skellam":
            return skellam(quantized(self.local_variance), count, stream)
        sigma = Fraction(math.ceil(math.sqrt(self.local_variance) * _SIGMA_STEP), _SIGMA_STEP)
        return discrete_gaussian_from_table(sigma, count, stream)

    def encode(self, vectors: Tensor, streams: Sequence[Stream], signs: Tensor) -> Tensor:
        """Return updates [clients, model] as they enter the sum: int64 [clients, width] in a ring.

        Each by itself, from its own client's stream: 0 to 2^bits - 1. `signs` are of the round, see
        `rotation.signs`. Raises `ValueError` for an update that is not finite.
        """
        clipped = self._clipped(vectors)
        rotated = rotation.rotate(clipped, signs).mul_(self.scale / self.clipping_norm)
        sent = torch.empty(rotated.shape, dtype=torch.int64)
        for own, row, stream in zip(sent, rotated, streams, strict=True):
            own.copy_(at_random(row, self.scale, stream))
            own.add_(self.noise(self.width, stream))
        return sent.remainder_(2**self.bits)

    def decode(
        self, total: Tensor, survivors: int, signs: Tensor, stream: Stream | None = None
    ) -> Tensor:
        """Return the noisy sum of the clipped updates of `survivors` clients: float64 [model].

        `total`: integers modulo 2^bits. `stream`: of the server's own noise, where it completes
        what is missing; the sum of nobody is that noise alone. Raises `TooFewSurvivorsError` where
        there are fewer than were counted on, and `ValueError` for more than there can be.
        """
        if survivors or not self.is_completed:
            self.need(survivors)
        if survivors > self.most:
            raise ValueError(f"{survivors} clients are in a sum of at most {self.most}")
        whole = centred(total, self.bits)
        if self.is_completed:
            assert stream is not None
            whole = whole + self.missing(survivors, stream)
        step = self.clipping_norm / self.scale
        return rotation.unrotate(whole.double().mul_(step), signs, self.dimension)

    def missing(self, survivors: int, stream: Stream) -> Tensor:
        """Return the noise of the clients missing from the largest cohort: int64 [width]."""
        total = torch.zeros(self.width, dtype=torch.int64)
        for _ in range(self.most - survivors):
            total.add_(self.noise(self.width, stream))
        return total

    def _clipped(self, vectors: Tensor) -> Tensor:
        """Return updates, float64 on the CPU, of L2 norm at most `clipping_norm`."""
        rows = vectors.cpu().double()
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        if not bool(norms.isfinite().all()):
            raise ValueError("an update is not finite: it has no place in a sum")
        return torch.mul(rows, (self.clipping_norm / norms).clamp(max=1.0))
