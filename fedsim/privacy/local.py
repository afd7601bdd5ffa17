"""Local privacy: every client randomizes its own update, so that even the server sees none.

Kasiviswanathan et al., "What can we learn privately?", FOCS 2008: whatever two updates a client
might have, what it sends must be nearly as likely under both. So the noise of a cohort adds up with
the clients, and sensitivity is twice the clipping norm, which follows from the mechanism and is
typed nowhere. What a client releases round after round composes in its own history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedsim.core import ClientContext
from fedsim.privacy.events import Release
from fedsim.privacy.mechanisms.gaussian import Gaussian
from fedsim.privacy.mechanisms.laplace import Laplace
from fedsim.privacy.mechanisms.privunit import PrivUnit
from fedsim.privacy.noise import Stream

__all__ = ["Mechanism", "Randomized", "mechanism_of", "reach", "release", "stream"]

Mechanism = Gaussian | Laplace | PrivUnit

_MOST_STDS = (
    63.0  # the largest Laplace noise there is: 88.03 scales of 1.41 to a standard deviation
)


def mechanism_of(name: str, clipping_norm: float, noise_multiplier: float) -> Mechanism:
    """Return a mechanism by its name.

    `noise_multiplier`: standard deviation ("gaussian") or scale ("laplace") / (2 x
    `clipping_norm`); of "privunit", 1 / the epsilon of a release, as it is of "laplace".
    """
    if name == "gaussian":
        return Gaussian(clipping_norm, noise_multiplier=noise_multiplier)
    if name == "laplace":
        return Laplace(clipping_norm, noise_multiplier=noise_multiplier)
    return PrivUnit(clipping_norm, 1 / noise_multiplier)


def release(name: str, noise_multiplier: float) -> Release:
    """Return what one randomized update spends of its client's budget, whatever the norm."""
    return mechanism_of(name, 1.0, noise_multiplier).release()


def reach(name: str, clipping_norm: float, noise_multiplier: float) -> float:
    """Return a bound of the absolute value of a randomized coordinate."""
    return clipping_norm + _MOST_STDS * mechanism_of(name, clipping_norm, noise_multiplier).std


def stream(ctx: ClientContext) -> Stream:
    """Return what a client draws from in a round: as secret as `ctx.seed` is."""
    return Stream.seeded(ctx.seed, "local noise", round=ctx.round, client=ctx.client)


@dataclass(frozen=True, slots=True)
class Randomized:
    """A transform of updates (`fedsim.core.Transform`): each by its own client's stream.

    An update that is not finite is sent as if it were zero: to be left out would tell something.
    """

    mechanism: Mechanism
    streams: Sequence[Stream]

    def encode(self, vectors: Tensor) -> Tensor:
        """Return updates [clients, model] as they are sent."""
        return self.mechanism.randomize(vectors, self.streams)
