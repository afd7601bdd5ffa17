"""Puts secrets together from the shares that clients sent, some of which may be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, combinations, islice

from fedsim.errors import SecAggAborted
from fedsim.secagg import shamir
from fedsim.secagg._repair import Polynomial, interpolate_most, value_at
from fedsim.secagg.shamir import SECRET_BYTES

_MOST_SUBSETS = 256  # of the shares of a secret, tried where more are wrong than can be decoded
Fits = Callable[[int, bytes], bool]  # owner, secret: is it what the owner committed to?


@dataclass(frozen=True, slots=True)
class Opened:
    """The secrets of a session, by owner; and who held a share that was wrong."""

    self_seeds: Mapping[int, bytes]
    masking_seeds: Mapping[int, bytes]
    wrong: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens one secret after the other; `places` are the clients' indices in the roster.

    Holders of a wrong share end up in `wrong` and are asked last from then on. Whether the holder
    or the owner made the share wrong cannot be told, so other shares of that holder still count.
    """

    places: Mapping[int, int]
    threshold: int
    wrong: dict[int, str] = field(default_factory=dict)

    def open(self, owner: int, shares: Mapping[int, bytes], fits: Fits) -> bytes:
        """Return the secret of `owner` from the shares by holder.

        Raises `SecAggAborted` where they are too few, or too many of them are wrong.
        """
        if len(shares) < self.threshold:
            raise SecAggAborted(f"unmask: shares of client {owner}", len(shares), self.threshold)
        holders = sorted(shares, key=lambda j: (j in self.wrong, self.places[j]))
        chosen = holders[: self.threshold]
        weights = _weights(tuple(1 + self.places[j] for j in chosen))
        secret = _combined(weights, [shares[j] for j in chosen])
        if secret is not None and fits(owner, secret):
            return secret
        return self._repaired(owner, shares, fits)

    def _repaired(self, owner: int, shares: Mapping[int, bytes], fits: Fits) -> bytes:
        """Find the secret although shares are wrong: decode them, else leave some out."""
        points = {1 + self.places[j]: int.from_bytes(shares[j], "big") for j in shares}
        trusted = sorted(shares, key=lambda j: (j in self.wrong, self.places[j]))
        subsets = combinations([1 + self.places[j] for j in trusted], self.threshold)
        for chosen in chain([points], islice(subsets, _MOST_SUBSETS)):
            found = interpolate_most({x: points[x] for x in chosen}, self.threshold)
            secret = None if found is None else _secret(found)
            if found is None or secret is None or not fits(owner, secret):
                continue
            for j in shares:
                if value_at(found, 1 + self.places[j]) != points[1 + self.places[j]]:
                    self.wrong.setdefault(j, f"unmask: its share of client {owner} is wrong")
            return secret
        reason = f"unmask: wrong shares of client {owner}, too many to tell which"
        raise SecAggAborted(reason, len(shares), self.threshold)


def _secret(polynomial: Polynomial) -> bytes | None:
    value = value_at(polynomial, 0)
    return None if value >> 8 * SECRET_BYTES else value.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=2)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shamir.weights(points))


def _combined(weights: tuple[int, ...], shares: list[bytes]) -> bytes | None:
    try:
        return shamir.combine(weights, shares)
    except ValueError:  # no secret of 32 bytes, so a share is wrong
        return None
