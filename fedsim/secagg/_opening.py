"""Puts secrets together from the shares that clients sent, some of which may be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from fedsim.crypto import KEY_BYTES
from fedsim.errors import SecAggAborted
from fedsim.secagg import shamir
from fedsim.secagg._repair import interpolate_most

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
        points = {1 + self.places[j]: int.from_bytes(shares[j], "big") for j in shares}
        found = interpolate_most(points, self.threshold)
        if found is None or found.value >= 2 ** (8 * KEY_BYTES):
            raise self._wrong_shares(owner, shares)
        secret = found.value.to_bytes(KEY_BYTES, "big")
        if not fits(owner, secret):
            raise self._wrong_shares(owner, shares)
        for holder in shares:
            if 1 + self.places[holder] in found.wrong:
                self.wrong[holder] = f"unmask: its share of client {owner} is wrong"
        return secret

    def _wrong_shares(self, owner: int, shares: Mapping[int, bytes]) -> SecAggAborted:
        reason = f"unmask: wrong shares of client {owner}, too many to tell which"
        return SecAggAborted(reason, len(shares), self.threshold)


@lru_cache(maxsize=2)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shamir.weights(points))


def _combined(weights: tuple[int, ...], shares: list[bytes]) -> bytes | None:
    try:
        return shamir.combine(weights, shares)
    except ValueError:  # no secret of 32 bytes, so a share is wrong
        return None
